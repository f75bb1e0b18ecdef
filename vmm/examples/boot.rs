//! Boots a kernel in a microVM with an entropy device, and disks if there are images for them,
//! and shows its serial console.
//!
//! ```text
//! cargo run -p nacre-vmm --example boot -- VMLINUX INITRAMFS "console=ttyS0 reboot=k" \
//!     [--vcpus N] [--memory MiB] [--timeout SECONDS] [--qemu] \
//!     [--disk IMAGE]... [--read-only-disk IMAGE]... [--nic-slots N] [--tap NAME]...
//! ```
//!
//! Each tap is plugged into a slot of its own once the machine runs, beyond those that stay empty.
//!
//! The exit status is 0 if the guest ended by itself.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nacre_vmm::devices::virtio::net::{Net, Tap, queue_pairs};
use nacre_vmm::devices::virtio::{VirtioDevice, block::Block, rng::Rng};
use nacre_vmm::{Error, Hypervisor, InitramfsPart, Qemu, Vm, VmConfig, qemu};

struct Options {
    positional: Vec<String>,
    hypervisor: Hypervisor,
    vcpus: u8,
    memory: u64,
    timeout: Duration,
    disks: Vec<File>,
    nic_slots: usize,
    taps: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        positional: Vec::new(),
        hypervisor: Hypervisor::Kvm,
        vcpus: 1,
        memory: 128,
        timeout: Duration::from_secs(60),
        disks: Vec::new(),
        nic_slots: 0,
        taps: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let mut number =
            || -> Result<u64, String> { value()?.parse().map_err(|e| format!("{arg}: {e}")) };
        match arg.as_str() {
            "--qemu" => options.hypervisor = Hypervisor::Qemu(Qemu::at(qemu::DEFAULT_PATH)),
            "--vcpus" => options.vcpus = number()?.try_into().map_err(|_| "too many vCPUs")?,
            "--memory" => options.memory = number()?,
            "--nic-slots" => options.nic_slots = number()? as usize,
            "--tap" => options.taps.push(value()?),
            "--timeout" => options.timeout = Duration::from_secs(number()?),
            "--disk" | "--read-only-disk" => {
                let write = arg == "--disk";
                let image = File::options().read(true).write(write).open(value()?);
                options
                    .disks
                    .push(image.map_err(|e| format!("{arg}: {e}"))?);
            }
            _ => options.positional.push(arg),
        }
    }
    Ok(options)
}

fn boot() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    let [kernel, initramfs, cmdline] = &options.positional[..] else {
        return Err("usage: boot VMLINUX INITRAMFS CMDLINE [--vcpus N] [--memory MiB]".into());
    };
    let console = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(Rng::new())];
    for disk in options.disks {
        devices.push(Box::new(Block::new(disk, "", options.vcpus.into())?));
    }
    let began = Instant::now();
    let vm = Vm::new(VmConfig {
        user: nacre_vmm::OwnUser::choose()?,
        nic_throttles: Default::default(),
        hypervisor: options.hypervisor,
        name: String::new(),
        vcpus: options.vcpus,
        memory: options.memory << 20,
        kernel: File::open(kernel)?,
        initramfs: vec![InitramfsPart::File(File::open(initramfs)?)],
        cmdline: cmdline.clone(),
        console_log: Some(console),
        devices,
        nic_slots: options.nic_slots + options.taps.len(),
        nested: false,
    })?;
    let made = began.elapsed();
    let running = vm.start()?;
    for (name, number) in options.taps.iter().zip(1..) {
        let tap = Tap::open(name, queue_pairs(options.vcpus))?;
        let net = Net::new(tap, [2, 0, 0, 0, 0, number], 1500)?;
        eprintln!("{name} is virtio-mmio.{}", running.plug_net(net)?);
    }

    let mut poll = libc::pollfd {
        fd: running.exit_event().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one `pollfd` is passed, as the count says.
    unsafe { libc::poll(&mut poll, 1, options.timeout.as_millis() as i32) };
    let exit = running.wait()?;
    eprintln!("{exit:?} after {:?} (made in {made:?})", began.elapsed());
    Ok(())
}

fn main() -> ExitCode {
    let Err(error) = boot() else {
        return ExitCode::SUCCESS;
    };
    eprint!("boot: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    if let Some(tail) = error.downcast_ref::<Error>().and_then(Error::console_tail) {
        eprint!("{tail}");
    }
    ExitCode::FAILURE
}
