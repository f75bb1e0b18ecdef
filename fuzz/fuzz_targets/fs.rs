//! A guest's file system.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::fs(script, nacre_fuzz::directory()));
