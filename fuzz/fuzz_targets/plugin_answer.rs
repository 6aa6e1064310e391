#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    callout_server::plugin::fuzzing::plugin_answer(octets);
});
