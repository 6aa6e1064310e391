#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| services::fuzzing::normalize(octets));
