//! Feeds any bytes to the decoder of: the files of memory images, behind a hash that is right.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("image", data));
