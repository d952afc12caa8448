//! Feeds any bytes to the decoder of: what QEMU says on its monitor.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("qmp", data));
