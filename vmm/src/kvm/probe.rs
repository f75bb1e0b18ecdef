//! Finds out whether KVM can run kernel code at all.
//!
//! If the processor's virtualisation is hidden (CPUID shows neither VMX nor SVM) but there is a
//! `/dev/kvm`, KVM may be one that interprets the guest's kernel, and its interpreter may not know
//! instructions that every kernel uses. Such a guest runs for half a minute before it reaches one.
//! So a guest of a dozen instructions tries them first.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::kick::{self, Kick};
use crate::arch::registers;

/// How long the guest may take. It takes some milliseconds if every instruction is emulated.
const LIMIT: Duration = Duration::from_millis(500);

// The layout of the guest's 64 KiB, apart from what `registers` puts there.
const MEMORY_SIZE: usize = 0x1_0000;
const CODE: u64 = 0x1000;
const IDT: u64 = 0x2000;
const STACK_END: u64 = 0x7000;

/// The guest writes here when it has finished.
const DONE_PORT: u16 = 0x600;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;
/// CPUID leaf 1, ECX: VMX (Intel), XSAVE. Leaf 0x8000_0001, ECX: SVM (AMD).
const VMX: u32 = 1 << 5;
const XSAVE: u32 = 1 << 26;
const SVM: u32 = 1 << 2;

/// What each step tries; EDI holds the number of the guest's current step.
const STEPS: [&str; 5] = [
    "its first instruction",
    "cmpxchg16b",
    "fxrstor",
    "xrstor",
    "int3",
];

core::arch::global_asm!(
    ".pushsection .rodata.nacre_kvm_probe, \"a\", @progbits",
    ".balign 16",
    "nacre_kvm_probe:",
    // Atomically exchange 16 bytes, as the slab allocator does.
    "mov edi, 1",
    "xor eax, eax",
    "xor edx, edx",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "lock cmpxchg16b [0x3000]",
    // Save and restore floating point state, as every context switch does.
    "mov edi, 2",
    "fxsave64 [0x3400]",
    "fxrstor64 [0x3400]",
    "mov edi, 3",
    "test esi, esi", // Is there XSAVE?
    "jz 2f",
    "mov eax, 3", // x87 and SSE state.
    "xsave64 [0x3800]",
    "xrstor64 [0x3800]",
    "2:",
    // Trap and return, with which alternatives and static calls are patched.
    "mov edi, 4",
    "int3",
    "mov edx, 0x600",
    "out dx, al",
    "3:",
    "hlt",
    "jmp 3b",
    "nacre_kvm_probe_int3:",
    "iretq",
    "nacre_kvm_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static nacre_kvm_probe: u8;
    static nacre_kvm_probe_int3: u8;
    static nacre_kvm_probe_end: u8;
}

/// Returns the guest's code, and the offset in it of the handler of `int3`.
fn code() -> (&'static [u8], u64) {
    let start = &raw const nacre_kvm_probe;
    let end = &raw const nacre_kvm_probe_end;
    let handler = &raw const nacre_kvm_probe_int3;
    // SAFETY: the three symbols are in that order in one read-only section of this program.
    unsafe {
        let len = end.offset_from_unsigned(start);
        let code = std::slice::from_raw_parts(start, len);
        (code, handler.offset_from_unsigned(start) as u64)
    }
}

/// Returns whether the processor shows its virtualisation, which KVM then uses.
pub(crate) fn has_hardware_virtualisation() -> bool {
    let max = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    core::arch::x86_64::__cpuid(1).ecx & VMX != 0
        || max >= 0x8000_0001 && core::arch::x86_64::__cpuid(0x8000_0001).ecx & SVM != 0
}

/// Runs the guest.
///
/// # Errors
///
/// What KVM couldn't do, for an error message.
pub(crate) fn run(kvm: &Kvm) -> Result<(), String> {
    let (code, int3_handler) = code();
    run_for(guest(kvm, code, int3_handler)?, LIMIT)
}

/// Makes a vCPU that is about to run `code`, and its memory.
fn guest(kvm: &Kvm, code: &[u8], int3_handler: u64) -> Result<Guest, String> {
    let failed = |what: &'static str| move |error: kvm_ioctls::Error| format!("{what}: {error}");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])
        .map_err(|error| format!("no memory for a guest: {error}"))?;
    registers::write_tables(&memory)
        .and_then(|()| memory.write_slice(code, GuestAddress(CODE)))
        .and_then(|()| memory.write_slice(&idt(CODE + int3_handler), GuestAddress(IDT)))
        .map_err(|error| format!("a guest's memory: {error}"))?;

    let vm = kvm.create_vm().map_err(failed("it can't create a VM"))?;
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY_SIZE as u64,
        userspace_addr: memory
            .get_host_address(GuestAddress(0))
            .map_err(|error| format!("a guest's memory: {error}"))? as u64,
        ..Default::default()
    };
    // SAFETY: the mapping goes with the vCPU and is dropped after it; the VM here is dropped first.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("it takes no memory"))?;
    let vcpu = vm
        .create_vcpu(0)
        .map_err(failed("it can't create a vCPU"))?;
    configure(kvm, &vcpu).map_err(failed("it can't set a vCPU up"))?;
    Ok(Guest {
        vcpu,
        _memory: memory,
    })
}

/// A vCPU and its memory, dropped in that order.
struct Guest {
    vcpu: VcpuFd,
    _memory: GuestMemoryMmap,
}

fn configure(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    vcpu.set_cpuid2(&cpuid)?;
    let xsave = cpuid
        .as_slice()
        .iter()
        .any(|entry| entry.function == 1 && entry.ecx & XSAVE != 0);
    let mut sregs = registers::long_mode(vcpu.get_sregs()?);
    sregs.cr4 |= CR4_OSFXSR | if xsave { CR4_OSXSAVE } else { 0 };
    sregs.idt.base = IDT;
    sregs.idt.limit = 4 * 16 - 1;
    vcpu.set_sregs(&sregs)?;
    let mut regs = registers::at_entry(GuestAddress(CODE));
    regs.rsp = STACK_END;
    regs.rsi = xsave.into();
    vcpu.set_regs(&regs)
}

/// Returns an interrupt descriptor table whose only gate is that of vector 3 (Intel SDM volume 3,
/// section 7.14.1). Any other fault becomes a triple fault.
fn idt(handler: u64) -> [u8; 64] {
    let gate = (handler & 0xffff)
        | u64::from(registers::CODE_SELECTOR) << 16
        | 0x8e00 << 32
        | (handler >> 16 & 0xffff) << 48;
    let mut idt = [0; 64];
    idt[48..56].copy_from_slice(&gate.to_le_bytes());
    idt[56..].copy_from_slice(&(handler >> 32).to_le_bytes());
    idt
}

/// Runs the guest in a thread, which is kicked out of it after `limit`.
fn run_for(guest: Guest, limit: Duration) -> Result<(), String> {
    let no_thread = |error: std::io::Error| format!("no thread for a guest: {error}");
    kick::signal().ok_or("no signal for a guest's thread")?;
    let kick = Arc::new(Kick::new(&guest.vcpu).map_err(no_thread)?);
    let (sender, receiver) = mpsc::channel();
    let thread = {
        let kick = Arc::clone(&kick);
        let _masked = kick::Masked::new();
        std::thread::Builder::new()
            .name("kvm-probe".to_owned())
            .spawn(move || {
                kick.adopt();
                let result = step_through(guest);
                kick.release();
                // After the limit, nobody waits for it any more.
                let _ = sender.send(result);
            })
            .map_err(no_thread)?
    };
    match receiver.recv_timeout(limit) {
        Ok(result) => {
            let _ = thread.join();
            result
        }
        // The kick gets it out of the guest, and the thread ends by itself.
        Err(_) => {
            kick.kick();
            Err(format!(
                "it hangs in a guest's kernel of a dozen instructions for {limit:?}"
            ))
        }
    }
}

/// Runs the guest until it has finished, or up to an instruction that can't be run.
fn step_through(mut guest: Guest) -> Result<(), String> {
    let vcpu = &mut guest.vcpu;
    let why = loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, _)) => return Ok(()),
            Ok(VcpuExit::InternalError) => {
                // SAFETY: KVM_EXIT_INTERNAL_ERROR fills this member of the union, in which
                // all values are valid.
                let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
                break format!("internal error, suberror {}", internal.suberror);
            }
            Ok(VcpuExit::Shutdown) => break "triple fault".to_owned(),
            Ok(other) => break format!("{other:?}"),
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => break error.to_string(),
        }
    };
    let step = vcpu.get_regs().map_or(0, |regs| regs.rdi as usize);
    let step = STEPS.get(step).unwrap_or(&STEPS[0]);
    Err(format!("it can't run {step} in a guest's kernel ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_what_was_assembled() {
        let (code, handler) = code();
        // mov edi, 1 … iretq
        assert_eq!(code[..5], [0xbf, 1, 0, 0, 0]);
        assert_eq!(code[handler as usize..], [0x48, 0xcf]);
        assert!(code.len() < 0x1000);
    }

    fn kvm() -> Kvm {
        Kvm::new().unwrap_or_else(|error| panic!("skipped: /dev/kvm: {error}"))
    }

    #[test]
    #[ignore = "needs /dev/kvm, with VMX or SVM"]
    fn a_kvm_that_shows_its_hardware_runs_the_guest() {
        let kvm = kvm();
        if !has_hardware_virtualisation() {
            panic!("skipped: CPUID shows neither VMX nor SVM");
        }
        run(&kvm).unwrap();
    }

    /// A guest that never finishes is given up, and its thread ends.
    #[test]
    #[ignore = "needs /dev/kvm"]
    fn a_guest_that_hangs_is_given_up() {
        let kvm = kvm();
        let limit = Duration::from_millis(20);
        let guest = guest(&kvm, &[0xeb, 0xfe], 0).unwrap(); // jmp .
        let began = std::time::Instant::now();
        let reason = run_for(guest, limit).unwrap_err();
        assert!(reason.contains("hangs"), "{reason}");
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn the_gate_points_to_the_handler() {
        let idt = idt(0x1234_5678_9abc_def0);
        assert_eq!(idt[..48], [0; 48]);
        let gate = [
            0xf0, 0xde, 0x10, 0, 0, 0x8e, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0,
        ];
        assert_eq!(idt[48..], gate);
    }
}
