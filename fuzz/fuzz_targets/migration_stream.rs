//! Feeds any bytes to the decoder of migration streams; see `vmrewind_qemu::stream::fuzz` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmrewind_qemu::stream::fuzz::migration_stream(data));
