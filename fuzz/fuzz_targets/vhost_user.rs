//! What QEMU says to a device.

#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| nacre_vmm::fuzz::vhost_user(script, || {
    nacre_fuzz::file(16 << 20)
}));
