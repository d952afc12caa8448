//! Feeds any bytes to the decoder of: the headers of qcow2 images.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("qcow2", data));
