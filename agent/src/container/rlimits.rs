//! `process.rlimits`.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use super::config::ConfigError;
use super::error::{InitError, Step};

use PosixRlimitType::*;

fn resource(kind: PosixRlimitType) -> libc::__rlimit_resource_t {
    match kind {
        RlimitCpu => libc::RLIMIT_CPU,
        RlimitFsize => libc::RLIMIT_FSIZE,
        RlimitData => libc::RLIMIT_DATA,
        RlimitStack => libc::RLIMIT_STACK,
        RlimitCore => libc::RLIMIT_CORE,
        RlimitRss => libc::RLIMIT_RSS,
        RlimitNproc => libc::RLIMIT_NPROC,
        RlimitNofile => libc::RLIMIT_NOFILE,
        RlimitMemlock => libc::RLIMIT_MEMLOCK,
        RlimitAs => libc::RLIMIT_AS,
        RlimitLocks => libc::RLIMIT_LOCKS,
        RlimitSigpending => libc::RLIMIT_SIGPENDING,
        RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        RlimitNice => libc::RLIMIT_NICE,
        RlimitRtprio => libc::RLIMIT_RTPRIO,
        RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// Checks what needs no kernel: one limit a kind, none softer than hard.
pub(super) fn validate(rlimits: &[PosixRlimit]) -> Result<(), ConfigError> {
    for (index, limit) in rlimits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if rlimits.iter().take(index).any(|l| l.typ() == limit.typ()) {
            return Err(ConfigError::invalid(
                field,
                format!("there are two of {}", limit.typ()),
            ));
        }
        if limit.soft() > limit.hard() {
            return Err(ConfigError::invalid(
                field,
                format!(
                    "the soft limit {} of {} is over the hard limit {}",
                    limit.soft(),
                    limit.typ(),
                    limit.hard()
                ),
            ));
        }
    }
    Ok(())
}

/// Raises the hard limits of a process (0 is this one) that are lower than asked for. In a user
/// namespace nobody has the right to.
pub(super) fn raise(pid: libc::pid_t, rlimits: &[PosixRlimit]) -> Result<(), InitError> {
    for limit in rlimits {
        let step = || format!("raise {} to {}", limit.typ(), limit.hard());
        let mut value = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let kind = resource(limit.typ());
        // SAFETY: `value` is valid for the call.
        let got = unsafe { libc::prlimit(pid, kind, std::ptr::null(), &raw mut value) };
        nix::errno::Errno::result(got).step(step)?;
        if value.rlim_max < limit.hard() {
            value.rlim_max = limit.hard();
            // SAFETY: as before.
            let set = unsafe { libc::prlimit(pid, kind, &raw const value, std::ptr::null_mut()) };
            nix::errno::Errno::result(set).step(step)?;
        }
    }
    Ok(())
}

/// Sets the limits of this process.
pub(super) fn set(rlimits: &[PosixRlimit]) -> Result<(), InitError> {
    for limit in rlimits {
        let value = libc::rlimit {
            rlim_cur: limit.soft(),
            rlim_max: limit.hard(),
        };
        // SAFETY: `value` is valid for the call.
        let result = unsafe { libc::setrlimit(resource(limit.typ()), &raw const value) };
        nix::errno::Errno::result(result)
            .step(|| format!("set {} to {}:{}", limit.typ(), limit.soft(), limit.hard()))?;
    }
    Ok(())
}
