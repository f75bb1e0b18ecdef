//! A container's `config.json`.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_fuzz::config(script));
