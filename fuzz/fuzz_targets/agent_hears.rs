//! What the agent is told.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_fuzz::agent_hears(script));
