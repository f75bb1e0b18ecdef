//! Tests machines whose kernel is a handful of instructions. They run on any KVM that opens, even
//! one that can't run a stock kernel, and are skipped where there is none.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use super::*;
use crate::Exit;
use crate::devices::virtio::{ActivateError, Activation};
use crate::test_kernels::*;

/// Nothing that a test waits for takes longer, however busy the machine is.
const TIMEOUT: Duration = Duration::from_secs(30);

// Runs at an address without memory, after it has mapped the 2 MiB from 0xd0000000 with another
// page directory.
kernel!(run_from_nowhere:
    "mov eax, 0xd0000083"
    "mov [0x2400], rax"
    "mov eax, 0x2003"
    "mov [0xa018], rax"
    "mov eax, 0xd0100000"
    "jmp rax"
);
// Reads a device's registers and memory above 4 GiB, and writes where nothing is: powers off if
// everything is as it must be, resets if not.
kernel!(look_around:
    "cmp word ptr [rsi + 0x1fe], 0xaa55"
    "jne 3f"
    "mov eax, 0xd0000083"
    "mov [0x2400], rax"
    "mov eax, 0x2003"
    "mov [0xa018], rax"
    "mov rax, 0x100000083"
    "mov [0x3000], rax"
    "mov eax, 0x3003"
    "mov [0xa020], rax"
    // The first device's magic value and type.
    "mov ebx, 0xd0000000"
    "cmp dword ptr [rbx], 0x74726976"
    "jne 3f"
    "cmp dword ptr [rbx + 8], 4"
    "jne 3f"
    // Notifies its queue.
    "mov dword ptr [rbx + 0x50], 0"
    // Where the second device would be.
    "cmp dword ptr [rbx + 0x1000], -1"
    "jne 3f"
    "mov dword ptr [rbx + 0x1000], 1"
    "in al, 0x80"
    "cmp al, 0xff"
    "jne 3f"
    "out 0x80, al"
    "mov rbx, 0x100000000"
    "mov [rbx + 8], rbx"
    "cmp [rbx + 8], rbx"
    "jne 3f"
    "mov edx, 0x600"
    "mov al, 0x34"
    "out dx, al"
    "3:"
    "mov al, 0xfe"
    "out 0x64, al"
    "2: hlt"
    "jmp 2b"
);

// Looks at the first device's place until there is a device, and then, notifying it, until there is
// none: powers off then, or resets if what it sees is never right.
kernel!(await_device:
    "mov eax, 0xd0000083"
    "mov [0x2400], rax"
    "mov eax, 0x2003"
    "mov [0xa018], rax"
    "mov ebx, 0xd0000000"
    "4: cmp dword ptr [rbx], 0x74726976"
    "jne 3f"
    "mov dword ptr [rbx + 0x70], 1"
    "mov eax, [rbx + 8]"
    "test eax, eax"
    "jz 4b"
    "cmp eax, 4"
    "jne 3f"
    "5: mov dword ptr [rbx + 0x50], 0"
    "mov dword ptr [rbx + 0x70], 0"
    "cmp dword ptr [rbx + 4], 2"
    "jne 3f"
    "mov eax, [rbx + 8]"
    "test eax, eax"
    "jnz 5b"
    "mov edx, 0x600"
    "mov al, 0x34"
    "out dx, al"
    "3:"
    "mov al, 0xfe"
    "out 0x64, al"
    "2: hlt"
    "jmp 2b"
);

// Reads the first device's configuration space, and powers off.
kernel!(read_config:
    "mov eax, 0xd0000083"
    "mov [0x2400], rax"
    "mov eax, 0x2003"
    "mov [0xa018], rax"
    "mov ebx, 0xd0000000"
    "mov eax, [rbx + 0x100]"
    "mov edx, 0x600"
    "mov al, 0x34"
    "out dx, al"
    "2: hlt"
    "jmp 2b"
);

/// Makes a machine on any KVM that opens; skips the test where there is none.
fn machine(config: VmConfig) -> Result<KvmMachine, Error> {
    let kvm = Kvm::new().unwrap_or_else(|error| panic!("skipped: /dev/kvm: {error}"));
    KvmMachine::with_kvm(|| Ok(kvm), config)
}

/// Runs a machine until it ends by itself, which must be soon.
fn run(config: VmConfig) -> Result<Exit, Error> {
    let running = machine(config).unwrap().start().unwrap();
    assert!(ends_within(&running, TIMEOUT));
    running.wait()
}

fn ends_within(running: &RunningKvm, limit: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: running.exit_event().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one `pollfd` is passed, as the count says.
    unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) == 1 }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_guest_powers_off_or_resets() {
    assert_eq!(run(config(power_off())).unwrap(), Exit::PowerOff);
    assert_eq!(run(config(reset())).unwrap(), Exit::Reset);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_triple_fault_is_an_error_with_the_consoles_last_lines() {
    match run(config(hello())) {
        Err(Error::TripleFault { console_tail }) => assert_eq!(console_tail, "hi\n"),
        other => panic!("{other:?}"),
    }
    match run(config(triple_fault())) {
        Err(error) => assert_eq!(error.console_tail(), Some("")),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_internal_error_of_kvm_says_which() {
    match run(config(run_from_nowhere())) {
        Err(Error::InternalError { suberror, .. }) => assert_eq!(suberror, 1),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_does_not_end_is_stopped() {
    for (code, vcpus) in [(halt(), 1), (spin(), 1), (halt(), 8)] {
        let config = VmConfig {
            vcpus,
            ..config(code)
        };
        let vm = machine(config);
        let mut running = vm.unwrap().start().unwrap();
        assert!(!ends_within(&running, Duration::from_millis(20)));
        let began = Instant::now();
        running.stop();
        running.stop();
        assert!(ends_within(&running, Duration::from_millis(100)));
        assert_eq!(running.wait().unwrap(), Exit::Stopped);
        assert!(began.elapsed() < Duration::from_secs(8));
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn stopping_right_after_the_start_is_in_time() {
    for _ in 0..50 {
        let vm = machine(config(spin()));
        let running = vm.unwrap().start().unwrap();
        assert_eq!(running.wait().unwrap(), Exit::Stopped);
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_end_of_its_own_counts_more_than_a_stop_after_it() {
    let vm = machine(config(power_off()));
    let mut running = vm.unwrap().start().unwrap();
    assert!(ends_within(&running, TIMEOUT));
    running.stop();
    assert_eq!(running.wait().unwrap(), Exit::PowerOff);
}

/// A device that doesn't answer until it is allowed to; it reports when it is asked.
struct Slow {
    asked: mpsc::Sender<()>,
    answer: Mutex<mpsc::Receiver<()>>,
}

impl VirtioDevice for Slow {
    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        1 << 32
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {
        self.asked.send(()).unwrap();
        self.answer.lock().unwrap().recv().unwrap();
    }

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Err(ActivateError::QueueNotReady(0))
    }

    fn reset(&mut self) {}
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_goes_on_after_a_pause_that_came_too_late() {
    let (asked, was_asked) = mpsc::channel();
    let (answer, awaits_answer) = mpsc::channel();
    let slow = Slow {
        asked,
        answer: Mutex::new(awaits_answer),
    };
    let vm = machine(VmConfig {
        devices: vec![Box::new(slow)],
        ..config(read_config())
    });
    let running = vm.unwrap().start().unwrap();
    was_asked.recv_timeout(TIMEOUT).unwrap();
    assert!(matches!(running.pause(), Err(Error::PauseTimeout)));
    answer.send(()).unwrap();
    assert!(ends_within(&running, TIMEOUT));
    assert_eq!(running.wait().unwrap(), Exit::PowerOff);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn pausing_and_resuming_is_in_time() {
    let vm = machine(VmConfig {
        vcpus: 2,
        ..config(spin())
    });
    let running = vm.unwrap().start().unwrap();
    for _ in 0..100 {
        running.pause().unwrap();
        running.resume();
    }
    assert!(!ends_within(&running, Duration::ZERO));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_machine_that_has_ended_is_paused_at_once() {
    let vm = machine(config(power_off()));
    let running = vm.unwrap().start().unwrap();
    assert!(ends_within(&running, TIMEOUT));
    let began = Instant::now();
    running.pause().unwrap();
    running.resume();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(running.wait().unwrap(), Exit::PowerOff);
}

/// A device that does nothing; its token shows whether it still exists.
#[derive(Default)]
struct Fake {
    _token: Arc<()>,
}

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        1 << 32
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Err(ActivateError::QueueNotReady(0))
    }

    fn reset(&mut self) {}
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_dropped_machine_is_gone() {
    let token = Arc::new(());
    let vm = || {
        let _token = Arc::clone(&token);
        machine(VmConfig {
            vcpus: 2,
            devices: vec![Box::new(Fake { _token })],
            ..config(spin())
        })
    };
    let never_started = vm();
    drop(never_started.unwrap());
    assert_eq!(Arc::strong_count(&token), 1);
    let running = vm().unwrap().start().unwrap();
    assert_eq!(Arc::strong_count(&token), 2);
    drop(running);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_guest_sees_its_memory_and_devices() {
    let config = VmConfig {
        memory: 5 << 30,
        devices: vec![Box::new(Fake::default())],
        ..config(look_around())
    };
    assert_eq!(run(config).unwrap(), Exit::PowerOff);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_device_is_plugged_in_and_out_under_the_guests_eyes() {
    let config = || VmConfig {
        nic_slots: 2,
        ..config(await_device())
    };
    let vm = machine(config());
    let running = vm.unwrap().start().unwrap();
    let token = Arc::new(());
    let fake = || {
        let _token = Arc::clone(&token);
        Box::new(Fake { _token })
    };
    running.unplug(0);
    assert!(!ends_within(&running, Duration::from_millis(30)));
    // The guest doesn't look at the second place here.
    assert_eq!(running.plug(fake()).unwrap(), 0);
    for _ in 0..20 {
        assert_eq!(running.plug(fake()).unwrap(), 1);
        assert!(matches!(running.plug(fake()), Err(Error::NoSlot)));
        running.unplug(1);
        running.unplug(2);
    }
    assert_eq!(Arc::strong_count(&token), 2);
    assert!(!ends_within(&running, Duration::from_millis(30)));
    running.unplug(0);
    assert_eq!(Arc::strong_count(&token), 1);
    assert!(ends_within(&running, TIMEOUT));
    assert_eq!(running.wait().unwrap(), Exit::PowerOff);

    // A device that is still plugged in ends with the machine.
    let running = machine(config()).unwrap().start().unwrap();
    running.plug(fake()).unwrap();
    drop(running);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn what_was_attached_from_the_start_stays() {
    let token = Arc::new(());
    let _token = Arc::clone(&token);
    let config = VmConfig {
        devices: vec![Box::new(Fake { _token })],
        nic_slots: 1,
        ..config(halt())
    };
    let vm = machine(config);
    let running = vm.unwrap().start().unwrap();
    running.unplug(0);
    assert_eq!(Arc::strong_count(&token), 2);
    assert_eq!(running.plug(Box::new(Fake::default())).unwrap(), 1);
}

fn devices(count: usize) -> Vec<Box<dyn VirtioDevice>> {
    (0..count)
        .map(|_| Box::new(Fake::default()) as Box<_>)
        .collect()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn as_many_devices_as_there_are_interrupts() {
    let many = VmConfig {
        devices: devices(MAX_DEVICES),
        ..config(power_off())
    };
    assert_eq!(run(many).unwrap(), Exit::PowerOff);
}

#[test]
fn more_devices_than_there_are_interrupts_are_refused() {
    let too_many = VmConfig {
        devices: devices(MAX_DEVICES + 1),
        ..config(power_off())
    };
    assert!(matches!(
        KvmMachine::new(too_many),
        Err(Error::Devices { .. })
    ));
    let too_many_slots = VmConfig {
        devices: devices(MAX_DEVICES),
        nic_slots: 1,
        ..config(power_off())
    };
    let refused = KvmMachine::new(too_many_slots);
    assert!(
        matches!(refused, Err(Error::Devices { requested, .. }) if requested == MAX_DEVICES + 1)
    );
}

#[test]
fn what_cannot_be_is_refused_before_kvm_is_asked() {
    let refused = |config| {
        let open = || -> Result<Kvm, KvmError> { panic!("KVM was asked") };
        KvmMachine::with_kvm(open, config).map(drop).unwrap_err()
    };
    for vcpus in [0, MAX_VCPUS + 1] {
        let config = VmConfig {
            vcpus,
            ..config(halt())
        };
        assert!(matches!(refused(config), Error::Vcpus { requested, .. } if requested == vcpus));
    }
    for cmdline in ["x".repeat(arch::CMDLINE_CAPACITY), "nul\0".to_owned()] {
        let config = VmConfig {
            cmdline,
            ..config(halt())
        };
        assert!(matches!(refused(config), Error::Cmdline(_)));
    }
}
