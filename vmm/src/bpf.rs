//! System call filters (seccomp(2)): turns an allow list into a program of classic BPF.
//!
//! A call on no list ends the process. Numbers that are newer than the lists, and those of other
//! instruction sets' tables, fail with `ENOSYS`: a newer C library tries such calls and does
//! without.

use std::collections::BTreeMap;
use std::io;

use libc::{c_long, sock_filter};

/// The newest call of Linux 6.10, which the authors of our lists knew.
pub const NEWEST: c_long = libc::SYS_mseal;

/// The flags with which the C libraries start a thread: glibc's, and musl's, which has one more
/// that does nothing.
pub const THREADS: [u32; 2] = [THREAD, THREAD | libc::CLONE_DETACHED as u32];

const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;

/// The system calls that a process may make.
pub struct Lists<'a> {
    /// Calls that are allowed whatever their arguments.
    pub allowed: &'a [c_long],
    /// Calls that are allowed only with certain arguments.
    pub with: &'a [With<'a>],
    /// Calls that fail with `ENOSYS`, as in a kernel without them.
    pub missing: &'a [c_long],
    /// The newest number that the author of the lists knew.
    pub newest: c_long,
}

/// A call whose argument must be one of certain values. The kernel uses only 32 bits of those
/// arguments, and so does the filter.
pub struct With<'a> {
    /// The call.
    pub call: c_long,
    /// Which of its arguments, from 0.
    pub argument: u32,
    /// What it may be.
    pub values: &'a [u32],
}

/// x86-64 and nothing else: 64 bits, little-endian, machine 62 (linux/audit.h).
const ARCHITECTURE: u32 = 0xc000_003e;

// Offsets in the kernel's `seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The most values that an argument may have, so that a jump can skip them.
const MOST_VALUES: usize = 64;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const ALWAYS: u32 = libc::BPF_JMP | libc::BPF_JA;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

impl Lists<'_> {
    /// Puts the calling thread, and what it makes and executes, under this filter, permanently.
    ///
    /// # Errors
    ///
    /// If the lists are too long, or the kernel has no filters.
    pub fn install(&self) -> io::Result<()> {
        match install(&self.program()?) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Builds the program.
    ///
    /// # Errors
    ///
    /// If the lists are too long for one.
    pub(crate) fn program(&self) -> io::Result<Vec<sock_filter>> {
        if self.with.iter().any(|with| with.values.len() > MOST_VALUES) {
            return Err(too_long());
        }
        let mut program = vec![
            step(LOAD, ARCH),
            jump(EQUAL, ARCHITECTURE, 1, 0),
            step(RETURN, KILL),
            step(LOAD, NUMBER),
        ];
        program.extend(decide(&self.ranges()));
        if program.len() > libc::BPF_MAXINSNS as usize {
            return Err(too_long());
        }
        Ok(program)
    }

    /// Returns what becomes of all numbers, in their order.
    fn ranges(&self) -> Vec<Range<'_>> {
        let with = self.with.iter().map(|with| (with.call, Fate::With(with)));
        let allowed = self.allowed.iter().map(|call| (*call, Fate::Is(ALLOW)));
        let missing = self.missing.iter().map(|call| (*call, Fate::Is(MISSING)));
        let mut listed = BTreeMap::new();
        for (call, fate) in with.chain(allowed).chain(missing) {
            if (0..=self.newest).contains(&call) {
                listed.entry(call as u32).or_insert(fate);
            }
        }
        listed.insert(self.newest as u32 + 1, Fate::Is(MISSING));
        let mut ranges = Vec::with_capacity(2 * listed.len());
        let mut next = 0;
        let mut add = |first, fate| {
            if ranges
                .last()
                .is_none_or(|last: &Range<'_>| !last.fate.continues(fate))
            {
                ranges.push(Range { first, fate });
            }
        };
        for (number, fate) in listed {
            if number > next {
                add(next, Fate::Is(KILL));
            }
            add(number, fate);
            next = number + 1;
        }
        ranges
    }
}

/// The numbers from one on, up to the next range, which share their fate.
struct Range<'a> {
    first: u32,
    fate: Fate<'a>,
}

/// What becomes of a call.
#[derive(Clone, Copy)]
enum Fate<'a> {
    /// This verdict.
    Is(u32),
    /// What its argument decides.
    With(&'a With<'a>),
}

impl Fate<'_> {
    /// Returns whether a range with this fate continues with one of that fate.
    fn continues(self, next: Fate<'_>) -> bool {
        matches!((self, next), (Self::Is(a), Fate::Is(b)) if a == b)
    }

    fn steps(self) -> Vec<sock_filter> {
        match self {
            Self::Is(verdict) => vec![step(RETURN, verdict)],
            Self::With(with) => with.steps(),
        }
    }
}

/// Builds the steps that find the loaded number's range, by halves. When a filter is installed, the
/// kernel runs it for every number to learn what it allows in any case: with comparisons one after
/// another, an installation takes a million instructions.
fn decide(ranges: &[Range<'_>]) -> Vec<sock_filter> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (Some(first), false) = (upper.first(), lower.is_empty()) else {
        return ranges.iter().flat_map(|range| range.fate.steps()).collect();
    };
    let below = decide(lower);
    let mut steps = match u8::try_from(below.len()) {
        Ok(length) => vec![jump(AT_LEAST, first.first, length, 0)],
        // A condition skips at most 255 steps.
        Err(_) => vec![
            jump(AT_LEAST, first.first, 0, 1),
            step(ALWAYS, below.len() as u32),
        ],
    };
    steps.extend(below);
    steps.extend(decide(upper));
    steps
}

impl With<'_> {
    /// Builds the steps that check the argument and return.
    fn steps(&self) -> Vec<sock_filter> {
        let mut steps = vec![step(LOAD, ARGUMENTS + 8 * self.argument)];
        for value in self.values {
            steps.extend([jump(EQUAL, *value, 0, 1), step(RETURN, ALLOW)]);
        }
        steps.push(step(RETURN, KILL));
        steps
    }
}

fn step(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

/// Builds a step that skips `then` steps if the condition holds, and `otherwise` if not.
fn jump(code: u32, k: u32, then: u8, otherwise: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: then,
        jf: otherwise,
        k,
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a filter is too long")
}

/// Puts the calling thread, and what it executes, under a program, permanently. Makes one system
/// call and nothing else; returns its result.
pub(crate) fn install(program: &[sock_filter]) -> c_long {
    install_with(program, 0)
}

/// Puts all threads of this process under a program, permanently.
///
/// # Errors
///
/// The kernel's; or `Other` if one of the threads is under another program.
pub(crate) fn install_for_all(program: &[sock_filter]) -> io::Result<()> {
    match install_with(program, libc::SECCOMP_FILTER_FLAG_TSYNC) {
        0 => Ok(()),
        1.. => Err(io::Error::other("another thread has another filter")),
        _ => Err(io::Error::last_os_error()),
    }
}

fn install_with(program: &[sock_filter], flags: libc::c_ulong) -> c_long {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program is valid for the call, which copies it and doesn't write to it.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Makes a system call in a process under a filter. Returns how that process ended: by a
    /// signal, or with the call's error as its status.
    pub(crate) fn attempt(
        program: &[sock_filter],
        call: c_long,
        arguments: [c_long; 4],
    ) -> Result<i32, i32> {
        let [a, b, c, d] = arguments;
        // SAFETY: the child makes only system calls, none of which is passed a pointer except those
        // that the kernel refuses to read; the parent waits for it.
        let status = unsafe {
            let pid = libc::fork();
            assert!(pid >= 0);
            if pid == 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if install(program) != 0 {
                    libc::_exit(100);
                }
                let error = match libc::syscall(call, a, b, c, d) {
                    result if result < 0 => *libc::__errno_location(),
                    _ => 0,
                };
                libc::syscall(libc::SYS_exit_group, error);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            status
        };
        if libc::WIFSIGNALED(status) {
            return Err(libc::WTERMSIG(status));
        }
        Ok(libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: Lists<'_> = Lists {
        allowed: &[libc::SYS_read, libc::SYS_exit_group],
        with: &[
            With {
                call: libc::SYS_socket,
                argument: 0,
                values: &[1, 7],
            },
            With {
                call: libc::SYS_fcntl,
                argument: 1,
                values: &[3],
            },
        ],
        missing: &[libc::SYS_clone3],
        newest: 500,
    };

    /// Returns a program's verdict on a call, as the kernel would.
    fn verdict(program: &[sock_filter], arch: u32, call: c_long, arguments: [u64; 2]) -> u32 {
        run(program, arch, call, arguments).0
    }

    fn steps_to_verdict(program: &[sock_filter], call: c_long) -> usize {
        run(program, ARCHITECTURE, call, [0; 2]).1
    }

    /// Returns the verdict, and how many steps it took.
    fn run(program: &[sock_filter], arch: u32, call: c_long, arguments: [u64; 2]) -> (u32, usize) {
        let mut data = [0; 64];
        data[..4].copy_from_slice(&(call as u32).to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        data[16..24].copy_from_slice(&arguments[0].to_le_bytes());
        data[24..32].copy_from_slice(&arguments[1].to_le_bytes());
        let (mut at, mut loaded, mut steps) = (0, 0, 0);
        loop {
            let step = &program[at];
            at += 1;
            steps += 1;
            let is_so = match u32::from(step.code) {
                LOAD => {
                    let place = step.k as usize;
                    loaded = u32::from_le_bytes(data[place..place + 4].try_into().unwrap());
                    continue;
                }
                ALWAYS => {
                    at += step.k as usize;
                    continue;
                }
                EQUAL => loaded == step.k,
                AT_LEAST => loaded >= step.k,
                RETURN => return (step.k, steps),
                other => panic!("code {other:#x}"),
            };
            at += usize::from(if is_so { step.jt } else { step.jf });
        }
    }

    #[test]
    fn a_program_says_what_the_lists_say() {
        let program = LISTS.program().unwrap();
        for (call, arguments, expected) in [
            (libc::SYS_read, [9, 9], ALLOW),
            (libc::SYS_exit_group, [0, 0], ALLOW),
            (libc::SYS_write, [0, 0], KILL),
            (libc::SYS_clone3, [0, 0], MISSING),
            (libc::SYS_socket, [1, 0], ALLOW),
            (libc::SYS_socket, [7, 0], ALLOW),
            (libc::SYS_socket, [2, 1], KILL),
            // The kernel takes an int.
            (libc::SYS_socket, [1 << 32 | 1, 0], ALLOW),
            (libc::SYS_socket, [1 << 32 | 2, 0], KILL),
            (libc::SYS_fcntl, [1, 3], ALLOW),
            (libc::SYS_fcntl, [3, 1], KILL),
            (500, [0, 0], KILL),
            (501, [0, 0], MISSING),
            // From the x32 table.
            (0x4000_0000, [0, 0], MISSING),
            (-1, [0, 0], MISSING),
        ] {
            let said = verdict(&program, ARCHITECTURE, call, arguments);
            assert_eq!(said, expected, "{call} {arguments:?}");
        }
        // From 32-bit x86's table, whose number 3 is read, too.
        assert_eq!(verdict(&program, 0x4000_0003, 3, [0, 0]), KILL);
    }

    #[test]
    fn a_program_has_a_bound() {
        let many = [0; 65];
        let with = [With {
            call: libc::SYS_socket,
            argument: 0,
            values: &many,
        }];
        let lists = Lists {
            with: &with,
            ..LISTS
        };
        assert!(lists.program().is_err());
        let many: Vec<With<'_>> = (0..32)
            .map(|call| With {
                call,
                argument: 0,
                values: &[0; MOST_VALUES],
            })
            .collect();
        let lists = Lists {
            with: &many,
            ..LISTS
        };
        assert!(lists.program().is_err());
    }

    #[test]
    fn a_program_decides_about_every_number() {
        let values: Vec<u32> = (0..64).collect();
        let with: Vec<With<'_>> = (0..20)
            .map(|i| With {
                call: i * 7,
                argument: 1,
                values: &values[..(i as usize * 5 % 64)],
            })
            .collect();
        let allowed: Vec<c_long> = (0..500).filter(|call| call % 3 == 0).collect();
        let missing: Vec<c_long> = (0..500).filter(|call| call % 4 == 0).collect();
        let lists = Lists {
            allowed: &allowed,
            with: &with,
            missing: &missing,
            newest: 400,
        };
        let program = lists.program().unwrap();
        for call in 0..=510 {
            for argument in [0, 3, 50, 64] {
                let of_call = with.iter().find(|with| with.call == call);
                let expected = match of_call {
                    _ if call > 400 => MISSING,
                    Some(with) if with.values.contains(&argument) => ALLOW,
                    Some(_) => KILL,
                    None if allowed.contains(&call) => ALLOW,
                    None if missing.contains(&call) => MISSING,
                    None => KILL,
                };
                let said = verdict(&program, ARCHITECTURE, call, [0, argument.into()]);
                assert_eq!(said, expected, "{call} {argument}");
            }
        }
    }

    #[test]
    fn a_program_decides_in_few_steps() {
        let allowed: Vec<c_long> = (0..400).step_by(2).collect();
        let lists = Lists {
            allowed: &allowed,
            with: &[],
            ..LISTS
        };
        let program = lists.program().unwrap();
        for call in 0..500 {
            assert!(steps_to_verdict(&program, call) <= 16, "{call}");
        }
    }
}
