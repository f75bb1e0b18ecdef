//! `linux.personality`
//! ([personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html)).

use nix::errno::Errno;
use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain};

/// As in `linux/personality.h`.
const PER_LINUX: libc::c_ulong = 0;
const PER_LINUX32: libc::c_ulong = 8;

/// Sets the personality of this process.
pub(crate) fn set(personality: &LinuxPersonality) -> nix::Result<()> {
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    // SAFETY: personality takes only an integer. Neither domain changes the layout of addresses,
    // which would matter to this process.
    Errno::result(unsafe { libc::personality(domain) }).map(drop)
}
