//! `linux.seccomp`: which system calls the workload may make.

mod arch;
mod listener;
mod program;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{
    SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD,
    SECCOMP_RET_LOG, SECCOMP_RET_TRACE, SECCOMP_RET_TRAP, SECCOMP_RET_USER_NOTIF, sock_filter,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::config::ConfigError;
use super::error::{InitError, Step};
use arch::{Abi, Call};
pub use listener::ListenerError;
pub(super) use listener::tell;
use program::{Answer, Comparison, Condition, Defaults, Rule, Table};
pub(super) use program::{Call as LetThrough, let_through};

/// The actions that a profile may ask for.
pub const ACTIONS: &[LinuxSeccompAction] = &[
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActNotify,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActTrap,
];

/// The comparisons of arguments that a profile may ask for.
pub const OPERATORS: &[LinuxSeccompOperator] = &[
    LinuxSeccompOperator::ScmpCmpEq,
    LinuxSeccompOperator::ScmpCmpGe,
    LinuxSeccompOperator::ScmpCmpGt,
    LinuxSeccompOperator::ScmpCmpLe,
    LinuxSeccompOperator::ScmpCmpLt,
    LinuxSeccompOperator::ScmpCmpMaskedEq,
    LinuxSeccompOperator::ScmpCmpNe,
];

/// The architectures whose system calls a filter can be about. A profile may name others,
/// which this machine doesn't have.
pub const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchX32, Arch::ScmpArchX86, Arch::ScmpArchX86_64];

/// The flags that a profile may ask for.
pub const FLAGS: &[LinuxSeccompFilterFlag] = &[
    LinuxSeccompFilterFlag::SeccompFilterFlagLog,
    LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow,
    LinuxSeccompFilterFlag::SeccompFilterFlagTsync,
    LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv,
];

/// As in `linux/seccomp.h`.
const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// The kernel's limit on a program's instructions (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// How many of them are kept for the engine's way through ([`let_through`]).
const KEPT: usize = 128;

/// How many rules a profile may have: each takes at least one instruction.
const MAX_RULES: usize = MAX_INSTRUCTIONS;

/// The largest error number that a system call can return.
const MAX_ERRNO: u32 = 4095;

/// The system call that a notification must not be asked for: by it the descriptor through
/// which the listener would hear of it is handed over.
const HANDS_OVER: &str = "sendmsg";

/// A profile, ready for the kernel.
#[derive(Debug)]
pub(super) struct Filter {
    program: Vec<sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Compiles a profile. System calls that libseccomp doesn't know are left out, as runc
    /// does it: profiles are written for many versions of it.
    ///
    /// # Errors
    ///
    /// As [`validate`] says, and for a profile of which the kernel doesn't take the program.
    pub(super) fn compile(seccomp: &LinuxSeccomp) -> Result<Self, ConfigError> {
        let default = default_answer(seccomp)?;
        let abis = abis(seccomp.architectures().as_deref().unwrap_or_default());
        let mut tables: Vec<Table> = abis.into_iter().map(Table::new).collect();
        let mut budget = MAX_RULES;
        for (index, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
            let rules = rules(index, syscall, &mut budget)?;
            for table in &mut tables {
                add(table, syscall, &rules, default);
            }
        }
        let program = program::assemble(
            &tables,
            Defaults {
                call: default,
                newer: newer_answer(default),
                // As libseccomp and so runc have it.
                foreign: SECCOMP_RET_KILL_THREAD,
            },
        );
        let limit = MAX_INSTRUCTIONS - KEPT;
        if program.len() > limit {
            let length = program.len();
            let problem = format!("it makes a program of {length} instructions, over {limit}");
            return Err(ConfigError::invalid("linux.seccomp.syscalls", problem));
        }
        Ok(Filter {
            program,
            flags: flags(seccomp)?,
        })
    }

    /// The same filter, with what `change` makes of its program.
    pub(super) fn with(self, change: impl FnOnce(Vec<sock_filter>) -> Vec<sock_filter>) -> Self {
        let program = change(self.program);
        Filter { program, ..self }
    }

    /// Whether loading it gives a descriptor for a listener.
    pub(super) fn notifies(&self) -> bool {
        self.flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }

    /// Puts this thread, and all that it makes and executes from now on, below the filter. It
    /// must have no_new_privs set, or CAP_SYS_ADMIN in its user namespace.
    ///
    /// If it [`notifies`](Self::notifies), this gives the listener's descriptor.
    ///
    /// # Errors
    ///
    /// What [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html) says.
    pub(super) fn load(&self) -> Result<Option<OwnedFd>, InitError> {
        let program = libc::sock_fprog {
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast_mut(),
        };
        match seccomp(self.flags, &raw const program) {
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EACCES) => Err(error)
                    .step(|| "set linux.seccomp without process.noNewPrivileges or CAP_SYS_ADMIN"),
                error => Err(error).step(|| "set linux.seccomp"),
            },
            // SAFETY: with that flag the call has just made this descriptor.
            fd if self.notifies() => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            _ => Ok(None),
        }
    }
}

/// Checks what can be checked of a profile without compiling it.
///
/// # Errors
///
/// For what can't be honoured, by its field.
pub(super) fn validate(seccomp: &LinuxSeccomp) -> Result<(), ConfigError> {
    default_answer(seccomp)?;
    let syscalls = seccomp.syscalls().as_deref().unwrap_or_default();
    let mut budget = MAX_RULES;
    for (index, syscall) in syscalls.iter().enumerate() {
        rules(index, syscall, &mut budget)?;
    }
    let listener = seccomp.listener_path().as_ref();
    let listener = listener.filter(|path| !path.as_os_str().is_empty());
    match listener {
        Some(path) if !path.is_absolute() => Err(ConfigError::invalid(
            "linux.seccomp.listenerPath",
            format!("{path:?} isn't absolute"),
        )),
        None if asks_for_notifications(seccomp) => {
            Err(ConfigError::missing("linux.seccomp.listenerPath"))
        }
        None if seccomp.listener_metadata().iter().any(|m| !m.is_empty()) => {
            Err(ConfigError::invalid(
                "linux.seccomp.listenerMetadata",
                "there is no linux.seccomp.listenerPath to send it to",
            ))
        }
        _ => Ok(()),
    }
}

/// Whether the running kernel knows a flag.
pub fn kernel_has(flag: LinuxSeccompFilterFlag) -> bool {
    // Without a program the call fails in any case, but first for what it doesn't know.
    let flags = kernel_flag(flag)
        | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                SECCOMP_FILTER_FLAG_NEW_LISTENER
            }
            _ => 0,
        };
    seccomp(flags, std::ptr::null());
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

fn seccomp(flags: libc::c_ulong, program: *const libc::sock_fprog) -> libc::c_long {
    // SAFETY: the kernel copies the program and its instructions, or fails if it can't.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            program,
        )
    }
}

/// Of each kind of system calls that the profile speaks of, one; the machine's own is always
/// among them.
fn abis(architectures: &[Arch]) -> Vec<Abi> {
    let mut abis = vec![Abi::X86_64];
    for abi in architectures.iter().filter_map(|arch| Abi::of(*arch)) {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    abis
}

fn asks_for_notifications(seccomp: &LinuxSeccomp) -> bool {
    let mut syscalls = seccomp.syscalls().iter().flatten();
    syscalls.any(|syscall| syscall.action() == LinuxSeccompAction::ScmpActNotify)
}

fn flags(seccomp: &LinuxSeccomp) -> Result<libc::c_ulong, ConfigError> {
    let mut flags = 0;
    let notifies = asks_for_notifications(seccomp);
    if notifies {
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
    }
    for (index, flag) in seccomp.flags().iter().flatten().enumerate() {
        if *flag == LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv {
            if !notifies {
                // It is about nothing else.
                continue;
            }
            if !kernel_has(*flag) {
                return Err(ConfigError::invalid(
                    format!("linux.seccomp.flags[{index}]"),
                    "this kernel doesn't know it (Linux 5.19 does)",
                ));
            }
        }
        flags |= kernel_flag(*flag);
    }
    Ok(flags)
}

fn kernel_flag(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        }
        // Whoever loads a filter here has no other threads to be brought in line.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
    }
}

fn default_answer(seccomp: &LinuxSeccomp) -> Result<Answer, ConfigError> {
    if seccomp.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(ConfigError::invalid(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY can't be the default: nobody could hand the listener over",
        ));
    }
    answer(
        seccomp.default_action(),
        seccomp.default_errno_ret(),
        "linux.seccomp.defaultErrnoRet",
    )
}

/// What a system call gets that is newer than all that a profile speaks of, as runc has it: a
/// program that could do without it would take any other answer for a refusal. Where most is
/// allowed, or a tracer is asked, this isn't needed.
fn newer_answer(default: Answer) -> Answer {
    match default & libc::SECCOMP_RET_ACTION_FULL {
        SECCOMP_RET_ALLOW | SECCOMP_RET_LOG | SECCOMP_RET_TRACE => default,
        _ => SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
    }
}

fn answer(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    field: &str,
) -> Result<Answer, ConfigError> {
    use LinuxSeccompAction::*;
    let takes_errno = matches!(action, ScmpActErrno | ScmpActTrace);
    match errno {
        Some(_) if !takes_errno => {
            let problem = "the action takes no error number";
            return Err(ConfigError::invalid(field, problem));
        }
        Some(errno) if errno > MAX_ERRNO => {
            let problem = format!("{errno} isn't an error number");
            return Err(ConfigError::invalid(field, problem));
        }
        _ => {}
    }
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        ScmpActKill | ScmpActKillThread => SECCOMP_RET_KILL_THREAD,
        ScmpActKillProcess => SECCOMP_RET_KILL_PROCESS,
        ScmpActTrap => SECCOMP_RET_TRAP,
        ScmpActErrno => SECCOMP_RET_ERRNO | errno,
        ScmpActNotify => SECCOMP_RET_USER_NOTIF,
        ScmpActTrace => SECCOMP_RET_TRACE | errno,
        ScmpActLog => SECCOMP_RET_LOG,
        ScmpActAllow => SECCOMP_RET_ALLOW,
    })
}

/// What `linux.seccomp.syscalls[index]` asks for each of its names. A rule of the default
/// action says nothing, as libseccomp has it, and is among them all the same.
fn rules(
    index: usize,
    syscall: &LinuxSyscall,
    budget: &mut usize,
) -> Result<Vec<Rule>, ConfigError> {
    let field = |name: &str| format!("linux.seccomp.syscalls[{index}].{name}");
    let answer = answer(syscall.action(), syscall.errno_ret(), &field("errnoRet"))?;
    let arguments = syscall.args().as_deref().unwrap_or_default();
    let mut conditions = Vec::with_capacity(arguments.len());
    for (number, argument) in arguments.iter().enumerate() {
        let condition = condition(argument).ok_or_else(|| {
            ConfigError::invalid(
                field(&format!("args[{number}].index")),
                format!("{} isn't between 0 and 5", argument.index()),
            )
        })?;
        conditions.push(condition);
    }
    let of_one_argument = |a: &Condition| {
        let same = conditions.iter().filter(|b| a.argument == b.argument);
        same.count() > 1
    };
    // As runc has it: an argument that is spoken of twice makes each condition one that is
    // enough.
    let rules: Vec<Rule> = if conditions.len() > 6 || conditions.iter().any(of_one_argument) {
        let alone = conditions.into_iter().map(|condition| vec![condition]);
        alone
            .map(|conditions| Rule { conditions, answer })
            .collect()
    } else {
        vec![Rule { conditions, answer }]
    };
    if answer == SECCOMP_RET_USER_NOTIF && syscall.names().iter().any(|n| n == HANDS_OVER) {
        let problem =
            format!("SCMP_ACT_NOTIFY can't be for {HANDS_OVER}, which hands the listener over");
        return Err(ConfigError::invalid(field("action"), problem));
    }
    *budget = rules
        .len()
        .checked_mul(syscall.names().len())
        .and_then(|count| budget.checked_sub(count))
        .ok_or_else(|| {
            let problem = format!("there are over {MAX_RULES} rules");
            ConfigError::invalid("linux.seccomp.syscalls", problem)
        })?;
    Ok(rules)
}

fn condition(argument: &LinuxSeccompArg) -> Option<Condition> {
    let value = argument.value();
    let (comparison, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Comparison::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (Comparison::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::GreaterOrEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Greater, value),
        // The mask comes first.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let masked = argument.value_two().unwrap_or(0);
            (Comparison::Masked(value), masked)
        }
    };
    let argument = u32::try_from(argument.index()).ok().filter(|i| *i < 6)?;
    Some(Condition {
        argument,
        comparison,
        value,
    })
}

/// Adds an entry's rules for each of its names.
fn add(table: &mut Table, syscall: &LinuxSyscall, rules: &[Rule], default: Answer) {
    for name in syscall.names() {
        for call in table.abi().calls(name) {
            let (Call::Number(number) | Call::Shared { number, .. }) = call;
            table.mention(number);
            for rule in rules.iter().filter(|rule| rule.answer != default) {
                let mut rule = rule.clone();
                if let Call::Shared { first, .. } = call {
                    // The call's own arguments are in memory, where a filter can't look; so
                    // what libseccomp does: the first condition is lost.
                    rule.conditions.retain(|c| c.argument != 0);
                    rule.conditions.push(Condition {
                        argument: 0,
                        comparison: Comparison::Equal,
                        value: first.into(),
                    });
                }
                table.add(number, rule);
            }
        }
    }
}

#[cfg(test)]
mod tests;
