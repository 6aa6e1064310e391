#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| opes_mta::smtp::reply::fuzzing::smtp_reply(octets));
