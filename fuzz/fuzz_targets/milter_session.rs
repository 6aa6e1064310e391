#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    opes_mta::front::milter::fuzzing::milter_session(octets);
});
