//! The kernel's answers over netlink.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_agent::fuzz::netlink(script));
