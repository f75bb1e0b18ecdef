//! `process.rlimits`.

use std::io;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process};

use crate::container::error::{InitError, Step};

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

/// All the kinds of limits.
const ALL: [PosixRlimitType; 16] = [
    RlimitCpu,
    RlimitFsize,
    RlimitData,
    RlimitStack,
    RlimitCore,
    RlimitRss,
    RlimitNproc,
    RlimitNofile,
    RlimitMemlock,
    RlimitAs,
    RlimitLocks,
    RlimitSigpending,
    RlimitMsgqueue,
    RlimitNice,
    RlimitRtprio,
    RlimitRttime,
];

/// Adds this process's limits to those of `process`, for each kind that it doesn't name: what it
/// would inherit if it were started here.
///
/// # Errors
///
/// The kernel's.
pub fn inherit_rlimits(process: &mut Process) -> io::Result<()> {
    let mut all = process.rlimits().clone().unwrap_or_default();
    for kind in ALL {
        if all.iter().any(|limit| limit.typ() == kind) {
            continue;
        }
        let own = get(0, kind)?;
        let limit = PosixRlimitBuilder::default()
            .typ(kind)
            .soft(own.rlim_cur)
            .hard(own.rlim_max);
        all.push(limit.build().map_err(io::Error::other)?);
    }
    process.set_rlimits(Some(all));
    Ok(())
}

fn get(pid: libc::pid_t, kind: PosixRlimitType) -> io::Result<libc::rlimit> {
    let mut value = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `value` is valid for the call.
    let got = unsafe { libc::prlimit(pid, resource(kind), std::ptr::null(), &raw mut value) };
    nix::errno::Errno::result(got)?;
    Ok(value)
}

/// Raises the hard limits of a process (0 is this one) that are lower than asked for. Nobody in a
/// user namespace has the right to do that.
pub(crate) fn raise(pid: libc::pid_t, rlimits: &[PosixRlimit]) -> Result<(), InitError> {
    for limit in rlimits {
        let step = || format!("raise {} to {}", limit.typ(), limit.hard());
        let mut value = get(pid, limit.typ()).step(step)?;
        if value.rlim_max < limit.hard() {
            value.rlim_max = limit.hard();
            let kind = resource(limit.typ());
            // SAFETY: `value` is valid for the call.
            let set = unsafe { libc::prlimit(pid, kind, &raw const value, std::ptr::null_mut()) };
            nix::errno::Errno::result(set).step(step)?;
        }
    }
    Ok(())
}

/// Sets the limits of this process.
pub(crate) fn set(rlimits: &[PosixRlimit]) -> Result<(), InitError> {
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
