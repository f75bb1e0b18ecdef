//! A container's record on disk.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre::fuzz::record(script));
