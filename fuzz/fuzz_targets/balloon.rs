//! A guest's balloon.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::balloon(script));
