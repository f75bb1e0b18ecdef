//! A guest's console.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::console(script, nacre_fuzz::input));
