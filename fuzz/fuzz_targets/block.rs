//! A guest's disk.

#![no_main]

libfuzzer_sys::fuzz_target!(
    |script: &[u8]| nacre_vmm::fuzz::block(script, || nacre_fuzz::file(4 << 20))
);
