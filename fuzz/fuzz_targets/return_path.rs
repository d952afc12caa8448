//! Feeds any bytes to the decoder of: a postcopy migration's return path.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("return_path", data));
