//! Feeds any bytes to the decoder of: vm.json, manifests and the journal.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("record", data));
