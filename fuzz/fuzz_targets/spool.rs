#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| opes_mta::spool::fuzzing::spool(octets));
