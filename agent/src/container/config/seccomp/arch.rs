//! The kinds of system calls that an x86-64 kernel takes, and their numbers.

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::Arch;

/// The bit that marks the number of an x32 system call
/// (`__X32_SYSCALL_BIT` of `asm/unistd.h`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A kind of system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    /// 64-bit registers, 32-bit pointers; told from x86-64 by [`X32_BIT`].
    X32,
    I386,
}

/// Returns the name of an x86-64 system call.
pub fn call_name(number: u16) -> Option<String> {
    let call = ScmpSyscall::from(i32::from(number));
    call.get_name_by_arch(ScmpArch::X8664).ok()
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Number(u32),
    /// One of the calls that share a number, and differ in their first argument.
    Shared {
        number: u32,
        first: u32,
    },
}

impl Abi {
    /// Returns `None` for an architecture that isn't this machine's: its system calls never get
    /// here.
    pub(super) fn for_architecture(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative | Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX32 => Some(Abi::X32),
            Arch::ScmpArchX86 => Some(Abi::I386),
            _ => None,
        }
    }

    /// Whether an argument is a whole 64-bit word.
    pub(super) fn has_wide_arguments(self) -> bool {
        self == Abi::X86_64
    }

    /// Returns what `name` stands for; nothing, if libseccomp doesn't know it or this ABI lacks it.
    pub(super) fn calls(self, name: &str) -> impl Iterator<Item = Call> {
        let arch = match self {
            Abi::X86_64 => ScmpArch::X8664,
            Abi::X32 => ScmpArch::X32,
            Abi::I386 => ScmpArch::X86,
        };
        let number = ScmpSyscall::from_name_by_arch(name, arch).map_or(-1, i32::from);
        let shared = match (self, number) {
            // libseccomp's pseudo numbers: minus the first argument, in groups.
            (Abi::I386, -120..=-101) => Some(Call::Shared {
                number: libc_i386::SOCKETCALL,
                first: number.unsigned_abs() - 100,
            }),
            (Abi::I386, -224..=-201) => Some(Call::Shared {
                number: libc_i386::IPC,
                first: number.unsigned_abs() - 200,
            }),
            _ => None,
        };
        let number = match shared {
            Some(_) => libc_i386::direct(name),
            None => u32::try_from(number).ok(),
        };
        shared.into_iter().chain(number.map(Call::Number))
    }
}

/// Numbers that libseccomp doesn't export (`asm/unistd_32.h`).
mod libc_i386 {
    pub(super) const SOCKETCALL: u32 = 102;
    pub(super) const IPC: u32 = 117;

    /// Returns the separate number that such a call also has, since Linux 4.3 and 5.1.
    pub(super) fn direct(name: &str) -> Option<u32> {
        Some(match name {
            "recvmmsg" => 337,
            "sendmmsg" => 345,
            "socket" => 359,
            "socketpair" => 360,
            "bind" => 361,
            "connect" => 362,
            "listen" => 363,
            "accept4" => 364,
            "getsockopt" => 365,
            "setsockopt" => 366,
            "getsockname" => 367,
            "getpeername" => 368,
            "sendto" => 369,
            "sendmsg" => 370,
            "recvfrom" => 371,
            "recvmsg" => 372,
            "shutdown" => 373,
            "semget" => 393,
            "semctl" => 394,
            "shmget" => 395,
            "shmctl" => 396,
            "shmat" => 397,
            "shmdt" => 398,
            "msgget" => 399,
            "msgsnd" => 400,
            "msgrcv" => 401,
            "msgctl" => 402,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(abi: Abi, name: &str) -> Vec<Call> {
        abi.calls(name).collect()
    }

    #[test]
    fn names_have_their_numbers() {
        assert_eq!(calls(Abi::X86_64, "socket"), [Call::Number(41)]);
        assert_eq!(calls(Abi::X32, "socket"), [Call::Number(X32_BIT + 41)]);
        assert_eq!(calls(Abi::X32, "execve"), [Call::Number(X32_BIT + 520)]);
        assert_eq!(calls(Abi::I386, "read"), [Call::Number(3)]);
        let shared = |number, first| Call::Shared { number, first };
        assert_eq!(
            calls(Abi::I386, "socket"),
            [shared(102, 1), Call::Number(359)]
        );
        assert_eq!(calls(Abi::I386, "accept"), [shared(102, 5)]);
        assert_eq!(calls(Abi::I386, "semop"), [shared(117, 1)]);
        assert_eq!(
            calls(Abi::I386, "shmctl"),
            [shared(117, 24), Call::Number(396)]
        );
    }

    #[test]
    fn what_is_not_there_has_none() {
        for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
            assert_eq!(calls(abi, "no_such_call"), []);
            assert_eq!(calls(abi, ""), []);
            assert_eq!(calls(abi, "a\0b"), []);
            assert_eq!(calls(abi, &"x".repeat(1000)), []);
            // A call of another machine.
            assert_eq!(calls(abi, "cacheflush"), []);
        }
        assert_eq!(calls(Abi::X86_64, "stime"), []);
    }
}
