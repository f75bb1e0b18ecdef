//! What is said to a container's socket.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre::fuzz::commands(script));
