//! The part of BPF that a device program needs: its instructions
//! ([RFC 9669](https://www.rfc-editor.org/rfc/rfc9669)), loading and attaching
//! ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::container::cgroups::CgroupError;

/// The registers that a device program uses, by their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    Result = 0,
    Context = 1,
    Kind = 2,
    Left = 3,
    Major = 4,
    Minor = 5,
}

/// Opcodes: class, operation, and an immediate operand unless X is named. All are 32-bit.
mod opcode {
    pub(super) const LOAD_X: u8 = 0x61; // LDX | MEM | W
    pub(super) const MOV_X: u8 = 0xbc;
    pub(super) const MOV: u8 = 0xb4;
    pub(super) const AND: u8 = 0x54;
    pub(super) const RSH: u8 = 0x74;
    pub(super) const JA: u8 = 0x05;
    pub(super) const JNE: u8 = 0x56;
    pub(super) const JSET: u8 = 0x46;
    pub(super) const EXIT: u8 = 0x95;
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    opcode: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(opcode: u8, destination: Register, offset: i16, immediate: i32) -> Self {
        Instruction {
            opcode,
            registers: destination as u8,
            offset,
            immediate,
        }
    }

    const fn from(self, source: Register) -> Self {
        Instruction {
            registers: self.registers | (source as u8) << 4,
            ..self
        }
    }

    /// Reads the 32 bits at `address + offset`.
    pub(super) const fn load(destination: Register, address: Register, offset: i16) -> Self {
        Self::new(opcode::LOAD_X, destination, offset, 0).from(address)
    }

    pub(super) const fn copy(destination: Register, source: Register) -> Self {
        Self::new(opcode::MOV_X, destination, 0, 0).from(source)
    }

    pub(super) const fn set(destination: Register, value: i32) -> Self {
        Self::new(opcode::MOV, destination, 0, value)
    }

    pub(super) const fn and(destination: Register, mask: i32) -> Self {
        Self::new(opcode::AND, destination, 0, mask)
    }

    pub(super) const fn shift_right(destination: Register, bits: i32) -> Self {
        Self::new(opcode::RSH, destination, 0, bits)
    }

    /// Skips the next `count` instructions.
    pub(super) const fn skip(count: usize) -> Self {
        Self::new(opcode::JA, Register::Result, count as i16, 0)
    }

    pub(super) const fn skip_unless_equal(a: Register, value: i32, count: usize) -> Self {
        Self::new(opcode::JNE, a, count as i16, value)
    }

    /// Skips `count` instructions if `a` has any of the bits of `mask`.
    pub(super) const fn skip_if_any(a: Register, mask: i32, count: usize) -> Self {
        Self::new(opcode::JSET, a, count as i16, mask)
    }

    pub(super) const fn exit() -> Self {
        Self::new(opcode::EXIT, Register::Result, 0, 0)
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of cgroups below run as well, so that a container can limit its own cgroups.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

/// As in libbpf.
const LOAD_ATTEMPTS: usize = 5;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`; what is left out is zero.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The start of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// The start of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

/// The start of `union bpf_attr` for `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct ByIdAttributes {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads `program` and has the kernel ask it about every access to a device from `cgroup`, until
/// the cgroup is removed.
pub(super) fn attach(program: &[Instruction], cgroup: &impl AsFd) -> Result<(), CgroupError> {
    let loaded = load(program).map_err(failed("load the program that enforces it"))?;
    bpf(BPF_PROG_ATTACH, &mut attach_attributes(&loaded, cgroup))
        .map(drop)
        .map_err(failed("attach the program that enforces it"))
}

/// As [`attach`], and then detaches all that were attached before. Both are asked in between, so
/// that there is no moment without either.
pub(super) fn replace(program: &[Instruction], cgroup: &impl AsFd) -> Result<(), CgroupError> {
    let before = attached(cgroup).map_err(failed("find the program that enforced it so far"))?;
    attach(program, cgroup)?;
    for program in before {
        let mut attributes = AttachAttributes {
            attach_flags: 0,
            ..attach_attributes(&program, cgroup)
        };
        bpf(BPF_PROG_DETACH, &mut attributes)
            .map_err(failed("detach the program that enforced it so far"))?;
    }
    Ok(())
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Devices { action, source }
}

fn attach_attributes(program: &OwnedFd, cgroup: &impl AsFd) -> AttachAttributes {
    AttachAttributes {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    }
}

/// Returns the device programs that are attached to a cgroup itself.
fn attached(cgroup: &impl AsFd) -> io::Result<Vec<OwnedFd>> {
    // The kernel allows 64 programs.
    let mut ids = [0u32; 64];
    let mut query = QueryAttributes {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    let count = usize::try_from(query.prog_cnt).unwrap_or(0);
    let by_id = |id: &u32| {
        let mut attributes = ByIdAttributes {
            prog_id: *id,
            next_id: 0,
            open_flags: 0,
        };
        let fd = bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes)?;
        // SAFETY: the kernel just made this descriptor for us, with close-on-exec.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    ids.iter().take(count).map(by_id).collect()
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // The verifier gives up when a signal arrives.
    let mut attempt = 0;
    let fd = loop {
        match bpf(BPF_PROG_LOAD, &mut attributes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && attempt < LOAD_ATTEMPTS => {
                attempt += 1;
            }
            other => break other?,
        }
    };
    // SAFETY: the kernel just made this descriptor for us, with close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel accesses `attributes` only up to its size; the addresses in it, if any,
    // are those of slices that outlive the call, with their lengths.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as u32,
        )
    };
    match libc::c_int::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns what the kernel would compute: the program's result for a context of three words.
#[cfg(test)]
pub(super) fn interpret(program: &[Instruction], context: [u32; 3]) -> u32 {
    let mut registers = [0u32; 16];
    let mut next = 0;
    loop {
        let at = program[next];
        next += 1;
        let source = usize::from(at.registers >> 4);
        let destination = usize::from(at.registers & 0xf);
        let value = registers[destination];
        let operand = at.immediate.cast_unsigned();
        let skip = usize::try_from(at.offset);
        match at.opcode {
            opcode::LOAD_X => {
                assert_eq!(source, Register::Context as usize);
                registers[destination] = context[skip.unwrap() / 4];
            }
            opcode::MOV_X => registers[destination] = registers[source],
            opcode::MOV => registers[destination] = operand,
            opcode::AND => registers[destination] &= operand,
            opcode::RSH => registers[destination] >>= operand,
            opcode::JA => next += skip.unwrap(),
            opcode::JNE if value != operand => next += skip.unwrap(),
            opcode::JSET if value & operand != 0 => next += skip.unwrap(),
            opcode::JNE | opcode::JSET => {}
            opcode::EXIT => return registers[Register::Result as usize],
            other => panic!("opcode {other:#x}"),
        }
    }
}
