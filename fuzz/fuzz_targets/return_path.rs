//! Feeds any bytes to the decoder of a postcopy migration's return path; see `vmrewind_qemu::postcopy::fuzz` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmrewind_qemu::postcopy::fuzz::return_path(data));
