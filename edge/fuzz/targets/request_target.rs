#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| edge::proxy::fuzzing::run("request_target", input));
