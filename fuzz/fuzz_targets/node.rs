//! Feeds any bytes to the decoders of trees' nodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmrewind_store::fuzz::node(data);
});
