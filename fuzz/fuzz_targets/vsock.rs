//! A guest's sockets.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::vsock(script));
