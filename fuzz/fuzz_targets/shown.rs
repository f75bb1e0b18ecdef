//! What a front end says to a file server, and shows it as the machine's memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::shown(script, nacre_fuzz::shown));
