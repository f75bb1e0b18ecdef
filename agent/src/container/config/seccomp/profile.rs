//! `linux.seccomp`: which system calls the workload may make.

use libc::{
    SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_LOG, SECCOMP_RET_TRACE,
    SECCOMP_RET_TRAP, SECCOMP_RET_USER_NOTIF, sock_filter,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::arch::{Abi, Call};
use super::program::{self, Answer, Comparison, Condition, Defaults, Rule, Table};
use crate::container::config::ConfigError;
use crate::container::kernel::seccomp as kernel;

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

/// The architectures whose system calls a filter can handle. A profile may name others, which this
/// machine doesn't have.
pub const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchX32, Arch::ScmpArchX86, Arch::ScmpArchX86_64];

/// The flags that a profile may ask for.
pub const FLAGS: &[LinuxSeccompFilterFlag] = &[
    LinuxSeccompFilterFlag::SeccompFilterFlagLog,
    LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow,
    LinuxSeccompFilterFlag::SeccompFilterFlagTsync,
    LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv,
];

/// The kernel's limit on a program's instructions (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// How many of them are reserved for the engine's way through ([`let_through`]).
const KEPT: usize = 128;

/// How many rules a profile may have: each takes at least one instruction.
const MAX_RULES: usize = MAX_INSTRUCTIONS;

/// The largest error number that a system call can return.
const MAX_ERRNO: u32 = 4095;

/// The system call that must not notify the listener: it hands over the descriptor through which
/// the listener is notified.
const HANDS_OVER: &str = "sendmsg";

/// A compiled profile, ready for the kernel.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: Vec<sock_filter>,
    pub(crate) flags: libc::c_ulong,
}

impl Filter {
    /// Returns the same filter, with its program changed by `change`.
    pub(crate) fn with(self, change: impl FnOnce(Vec<sock_filter>) -> Vec<sock_filter>) -> Self {
        let program = change(self.program);
        Filter { program, ..self }
    }

    /// Whether loading it returns a listener's descriptor.
    pub(crate) fn notifies(&self) -> bool {
        self.flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }
}

/// A checked profile.
#[derive(Debug)]
pub(crate) struct Profile<'a> {
    /// All of it. What has no field here needs no parsing.
    seccomp: &'a LinuxSeccomp,
    default: Answer,
    /// Its entries, each with the rules for every one of its names.
    entries: Vec<(&'a LinuxSyscall, Vec<Rule>)>,
    /// Whether a listener is asked about some calls.
    notifies: bool,
}

impl<'a> Profile<'a> {
    /// Checks what can be checked of a profile without compiling it.
    ///
    /// # Errors
    ///
    /// For what can't be honoured, with its field.
    pub(crate) fn parse(seccomp: &'a LinuxSeccomp) -> Result<Self, ConfigError> {
        let default = default_answer(seccomp)?;
        let syscalls = seccomp.syscalls().as_deref().unwrap_or_default();
        let mut budget = MAX_RULES;
        let mut entries = Vec::with_capacity(syscalls.len());
        let mut notifies = false;
        for (index, syscall) in syscalls.iter().enumerate() {
            entries.push((syscall, rules(index, syscall, &mut budget)?));
            notifies |= syscall.action() == LinuxSeccompAction::ScmpActNotify;
        }
        check_listener(seccomp, notifies)?;
        Ok(Profile {
            seccomp,
            default,
            entries,
            notifies,
        })
    }

    /// Compiles it. System calls that libseccomp doesn't know are left out, as with runc: profiles
    /// are written for many versions of it.
    ///
    /// # Errors
    ///
    /// For a flag that this kernel doesn't know, and for a profile whose program the kernel doesn't
    /// take.
    pub(crate) fn compile(&self) -> Result<Filter, ConfigError> {
        let architectures = self.seccomp.architectures().as_deref().unwrap_or_default();
        let mut tables: Vec<Table> = abis(architectures).into_iter().map(Table::new).collect();
        for (syscall, rules) in &self.entries {
            for table in &mut tables {
                add(table, syscall, rules, self.default);
            }
        }
        let program = program::assemble(
            &tables,
            Defaults {
                call: self.default,
                newer: newer_answer(self.default),
                // As in libseccomp, and so in runc.
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
            flags: self.flags()?,
        })
    }

    fn flags(&self) -> Result<libc::c_ulong, ConfigError> {
        let mut flags = 0;
        if self.notifies {
            flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
        }
        for (index, flag) in self.seccomp.flags().iter().flatten().enumerate() {
            if *flag == LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv {
                if !self.notifies {
                    // The flag concerns only notifications.
                    continue;
                }
                if !kernel::has(*flag) {
                    return Err(ConfigError::invalid(
                        format!("linux.seccomp.flags[{index}]"),
                        "this kernel doesn't know it (Linux 5.19 does)",
                    ));
                }
            }
            flags |= kernel::kernel_flag(*flag);
        }
        Ok(flags)
    }
}

/// Checks that there is a listener if one is asked, and only then.
fn check_listener(seccomp: &LinuxSeccomp, notifies: bool) -> Result<(), ConfigError> {
    let listener = seccomp.listener_path().as_ref();
    let listener = listener.filter(|path| !path.as_os_str().is_empty());
    match listener {
        Some(path) if !path.is_absolute() => Err(ConfigError::invalid(
            "linux.seccomp.listenerPath",
            format!("{path:?} isn't absolute"),
        )),
        None if notifies => Err(ConfigError::missing("linux.seccomp.listenerPath")),
        None if seccomp.listener_metadata().iter().any(|m| !m.is_empty()) => {
            Err(ConfigError::invalid(
                "linux.seccomp.listenerMetadata",
                "there is no linux.seccomp.listenerPath to send it to",
            ))
        }
        _ => Ok(()),
    }
}

/// Returns each kind of system calls that the profile names, once. The machine's own is always
/// among them.
fn abis(architectures: &[Arch]) -> Vec<Abi> {
    let mut abis = vec![Abi::X86_64];
    for abi in architectures
        .iter()
        .filter_map(|arch| Abi::for_architecture(*arch))
    {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    abis
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

/// Returns the answer to system calls that are newer than all that a profile names, as with runc: a
/// program that could do without one would take any other answer for a refusal. It isn't needed
/// where most calls are allowed, or a tracer is asked.
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

/// Returns the rules of `linux.seccomp.syscalls[index]` for each of its names. A rule with the
/// default action has no effect, as in libseccomp, but is included.
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
    // As in runc: if an argument is named twice, each condition is enough by itself.
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
                    // The call's own arguments are in memory, where a filter can't look. So as in
                    // libseccomp, the condition on the first one is lost.
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
