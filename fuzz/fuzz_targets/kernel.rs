//! A kernel's file.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_fuzz::with_file(script, nacre_vmm::fuzz::kernel));
