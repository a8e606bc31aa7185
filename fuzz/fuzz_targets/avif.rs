#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| siglip_server::fuzz::avif(bytes));
