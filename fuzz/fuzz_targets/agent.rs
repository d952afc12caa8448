//! Feeds any bytes to the decoder of: what a guest's agent says.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("agent", data));
