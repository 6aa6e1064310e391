#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| ocp_proto::fuzzing::operations(octets));
