//! Feeds any bytes to the decoder of: migration streams.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::run("migration_stream", data));
