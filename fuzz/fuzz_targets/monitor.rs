//! What a monitor that was taken over says to the sandbox process.

#![no_main]

libfuzzer_sys::fuzz_target!(|said: &[u8]| nacre_vmm::fuzz::monitor(said));
