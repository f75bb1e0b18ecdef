//! What the agent says to the sandbox process.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre::fuzz::agent(script));
