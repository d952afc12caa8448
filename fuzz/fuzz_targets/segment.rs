//! Feeds any bytes to the decoders of index segments: as a whole file, and as tables behind a hash that is right.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmrewind_store::fuzz::segment(data, 0);
    if let Some(([objects, blocks, packs, object_bits, block_bits, prefix], raw)) = data.split_first_chunk::<6>() {
        let counts = [objects, blocks, packs].map(|count| u32::from(*count));
        let prefix = u64::from(*prefix) << 56;
        vmrewind_store::fuzz::segment_meta(raw, counts, [*object_bits, *block_bits], prefix);
    }
});
