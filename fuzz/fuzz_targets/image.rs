//! Feeds any bytes to the decoder of images' files, behind a hash that is right.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vmrewind_store::fuzz::image(data);
});
