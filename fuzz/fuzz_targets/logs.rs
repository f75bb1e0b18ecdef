//! What a monitor that was taken over writes to its pipes.

#![no_main]

libfuzzer_sys::fuzz_target!(|said: &[u8]| nacre::fuzz::logs(said));
