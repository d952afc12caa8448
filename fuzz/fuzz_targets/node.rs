//! Feeds any bytes to the decoder of: nodes of images' trees.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("node", data));
