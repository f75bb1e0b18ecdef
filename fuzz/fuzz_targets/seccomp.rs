//! A seccomp profile.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_agent::fuzz::seccomp(script));
