//! A machine, whichever hypervisor runs it: made, started, changed while it runs, and ended.

use std::io;
use std::os::fd::BorrowedFd;

use crate::arch::MAX_VCPUS;
use crate::config::{MAX_DEVICES, VmConfig};
use crate::devices::virtio::net::{self, Net};
use crate::devices::virtio::throttle::Throttle;
use crate::error::{CONFINING, Error};
use crate::exit::Exit;
use crate::hypervisor::Hypervisor;
use crate::kvm::{KvmMachine, RunningKvm};
use crate::qemu::{MAX_QEMU_DEVICES, QemuMachine, RunningQemu};

/// A machine that is ready to start.
pub struct Vm {
    machine: Ready,
    queue_pairs: usize,
    nic_throttles: [Throttle; 2],
}

enum Ready {
    Kvm(KvmMachine),
    Qemu(Box<QemuMachine>),
}

impl Vm {
    /// Makes a machine: its memory with the kernel in it, its devices and its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is left behind.
    pub fn new(config: VmConfig) -> Result<Vm, Error> {
        let queue_pairs = net::queue_pairs(config.vcpus);
        let nic_throttles = config.nic_throttles.clone();
        let machine = match config.hypervisor.clone() {
            Hypervisor::Kvm => Ready::Kvm(KvmMachine::new(config)?),
            Hypervisor::Qemu(qemu) => Ready::Qemu(Box::new(QemuMachine::new(qemu, config)?)),
        };
        Ok(Vm {
            machine,
            queue_pairs,
            nic_throttles,
        })
    }

    /// Starts it: each vCPU in a thread of its own, or QEMU as a child process. QEMU is killed when
    /// the calling thread ends, so that thread must live as long as the machine.
    ///
    /// # Errors
    ///
    /// If a thread or the child can't be created; nothing runs then.
    pub fn start(self) -> Result<RunningVm, Error> {
        self.start_confined(|| Ok(()))
    }

    /// Does the same; `confine` takes away what this process needs no more, before the guest's first
    /// instruction.
    pub(crate) fn start_confined(
        self,
        confine: impl FnOnce() -> io::Result<()>,
    ) -> Result<RunningVm, Error> {
        Ok(RunningVm {
            machine: match self.machine {
                Ready::Kvm(machine) => {
                    confine().map_err(Error::host(CONFINING))?;
                    Running::Kvm(machine.start()?)
                }
                Ready::Qemu(machine) => Running::Qemu(machine.start(confine)?),
            },
            queue_pairs: self.queue_pairs,
            nic_throttles: self.nic_throttles,
        })
    }
}

/// A machine that is running, or has ended by itself.
///
/// Dropping it stops it.
pub struct RunningVm {
    machine: Running,
    queue_pairs: usize,
    nic_throttles: [Throttle; 2],
}

enum Running {
    Kvm(RunningKvm),
    Qemu(RunningQemu),
}

impl RunningVm {
    /// Returns a descriptor that is readable once the machine has ended by itself or failed, or was
    /// stopped.
    pub fn exit_event(&self) -> BorrowedFd<'_> {
        match &self.machine {
            Running::Kvm(machine) => machine.exit_event(),
            Running::Qemu(machine) => machine.exit_event(),
        }
    }

    /// Returns the process that has the vCPUs' threads: this one, or QEMU.
    pub fn runner(&self) -> u32 {
        match &self.machine {
            Running::Kvm(_) => std::process::id(),
            Running::Qemu(machine) => machine.pid(),
        }
    }

    /// Returns the last lines of the serial console, without control characters.
    pub fn console_tail(&self) -> String {
        match &self.machine {
            Running::Kvm(machine) => machine.console_tail(),
            Running::Qemu(machine) => machine.console_tail(),
        }
    }

    /// Plugs a network device in. Returns the number N of the guest's `virtio-mmio.N` that has
    /// become that device: the guest sees it once it binds that to its driver, which it may already
    /// have done if QEMU runs it.
    ///
    /// Under QEMU the guest learns neither the device's address nor its MTU by itself: it must be
    /// told them and set them.
    ///
    /// # Errors
    ///
    /// [`Error::NoSlot`] if there are as many as [`VmConfig::nic_slots`] already,
    /// [`Error::QueuePairs`] unless the device has as many pairs of queues as
    /// [`queue_pairs`](net::queue_pairs) requires for the machine's vCPUs; otherwise the host's
    /// error.
    pub fn plug_net(&self, device: Net) -> Result<usize, Error> {
        let found = device.pairs();
        if found != self.queue_pairs {
            return Err(Error::QueuePairs {
                found,
                wanted: self.queue_pairs,
            });
        }
        let [received, sent] = self.nic_throttles.clone();
        let device = device.with_throttles(received, sent);
        match &self.machine {
            Running::Kvm(machine) => machine.plug(Box::new(device)),
            Running::Qemu(machine) => machine.plug_net(device),
        }
    }

    /// Unplugs a network device, and closes its tap. The guest should have unbound the driver
    /// before; it has to do so, and bind it again, before another device in this slot works. Does
    /// nothing if there is none at `slot`, a number that [`plug_net`](Self::plug_net) returned.
    pub fn unplug_net(&self, slot: usize) {
        match &self.machine {
            Running::Kvm(machine) => machine.unplug(slot),
            Running::Qemu(machine) => machine.unplug_net(slot),
        }
    }

    /// Stops its vCPUs until [`resume`](Self::resume). Its devices continue with what they have
    /// been given. Does nothing to a machine that is paused or has ended.
    ///
    /// # Errors
    ///
    /// If a vCPU doesn't stop within seconds, or QEMU can't be signalled; the machine continues
    /// then.
    pub fn pause(&self) -> Result<(), Error> {
        match &self.machine {
            Running::Kvm(machine) => machine.pause(),
            Running::Qemu(machine) => machine.pause(),
        }
    }

    /// Lets the vCPUs continue.
    ///
    /// # Errors
    ///
    /// If QEMU can't be signalled.
    pub fn resume(&self) -> Result<(), Error> {
        match &self.machine {
            Running::Kvm(machine) => {
                machine.resume();
                Ok(())
            }
            Running::Qemu(machine) => machine.resume(),
        }
    }

    /// Stops it, whatever the guest is doing. Does nothing if it has already ended.
    pub fn stop(&mut self) {
        match &mut self.machine {
            Running::Kvm(machine) => machine.stop(),
            Running::Qemu(machine) => machine.stop(),
        }
    }

    /// Returns how it ended; stops it if it hasn't. To wait until it ends by itself, wait for
    /// [`exit_event`](Self::exit_event) first.
    ///
    /// # Errors
    ///
    /// What made the machine fail, or [`Error::StopTimeout`].
    pub fn wait(self) -> Result<Exit, Error> {
        match self.machine {
            Running::Kvm(machine) => machine.wait(),
            Running::Qemu(machine) => machine.wait(),
        }
    }

    /// Returns QEMU's process, if QEMU runs the machine.
    pub(crate) fn qemu(&self) -> Option<BorrowedFd<'_>> {
        match &self.machine {
            Running::Kvm(_) => None,
            Running::Qemu(machine) => Some(machine.process()),
        }
    }

    /// Stops it, and returns how it ended, and whether QEMU has exited by itself: what ran may not
    /// have been a QEMU then.
    pub(crate) fn finish(self) -> (Result<Exit, Error>, bool) {
        match self.machine {
            Running::Kvm(machine) => (machine.wait(), false),
            Running::Qemu(machine) => machine.wait_unjudged(),
        }
    }
}

// What the callers count on.
const _: () = assert!(MAX_VCPUS >= 8 && MAX_DEVICES >= 15 && MAX_QEMU_DEVICES >= 8);
