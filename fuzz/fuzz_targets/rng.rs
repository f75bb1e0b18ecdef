//! A guest's source of randomness.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::rng(script));
