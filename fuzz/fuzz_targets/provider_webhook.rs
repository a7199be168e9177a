#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| quartet_fuzz::provider_webhook(input));
