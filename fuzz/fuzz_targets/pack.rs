//! Feeds any bytes to the decoders of packs: as a whole file, and as a directory behind a hash that is right.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmrewind_store::fuzz::pack(data);
    if let Some(([entries, offset @ ..], raw)) = data.split_first_chunk::<3>() {
        let offset = u64::from(u16::from_le_bytes(*offset));
        vmrewind_store::fuzz::pack_directory(raw, u32::from(*entries), offset);
    }
});
