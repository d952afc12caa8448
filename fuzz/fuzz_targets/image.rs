//! Feeds any bytes to the decoders of memory images: as a whole file, and as tables behind a hash that is right.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmrewind_store::fuzz::image(data);
    if let Some((numbers, raw)) = data.split_first_chunk::<4>() {
        let [a, b, c, d] = numbers.map(u64::from);
        vmrewind_store::fuzz::tables(raw, (a << 8 | b) << 12, c << 8 | d);
    }
});
