//! The doors of the engine, as the fuzzing in `fuzz/` opens them. A panic is a finding.

use oci_spec::runtime::LinuxSeccomp;

use crate::container::config;
use crate::network::fuzz_answers;

/// A seccomp profile, compiled into a program.
pub fn seccomp(json: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(json) else {
        return;
    };
    let checked = config::seccomp::Profile::parse(&profile);
    if let Ok(filter) = checked.and_then(|profile| profile.compile()) {
        assert!(filter.program.len() <= usize::from(u16::MAX));
    }
}

/// The kernel's answers over netlink.
pub fn netlink(answers: &[u8]) {
    fuzz_answers(answers);
}
