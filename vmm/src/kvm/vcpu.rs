//! A vCPU's thread: runs the guest, and handles its exits. It has no rights: KVM asks for none once
//! a vCPU is open, nor do the devices whose registers the guest accesses.

use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::kick::Kick;
use super::shared::Machine;
use crate::error::Error;
use crate::exit::Exit;
use crate::rights::ThreadRights;

/// A vCPU and its machine. Fields are dropped in order: the machine, which holds guest memory,
/// after the vCPU.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    kick: Arc<Kick>,
    machine: Arc<Machine>,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, kick: Arc<Kick>, machine: Arc<Machine>) -> Vcpu {
        Vcpu { fd, kick, machine }
    }

    /// Runs until the machine ends, which this vCPU may cause.
    pub(crate) fn run(mut self) {
        self.kick.adopt();
        // Also dropped when a device panics: the machine ends then.
        let _presence = Presence {
            kick: Arc::clone(&self.kick),
            machine: Arc::clone(&self.machine),
        };
        if let Err(source) = ThreadRights::NONE.keep() {
            let what = "giving up a vCPU thread's rights";
            self.machine.end(Err(Error::Host { what, source }));
            return;
        }
        loop {
            self.machine.pause.hold(
                || self.machine.ended(),
                // Tells the guest's watchdogs that it was stopped, if its clock is KVM's.
                || {
                    let _ = self.fd.kvmclock_ctrl();
                },
            );
            if self.machine.ended() {
                return;
            }
            if let Some(end) = self.step() {
                self.machine.end(end);
            }
        }
    }

    /// Runs the guest until its next exit. Returns how the machine ends, if it does.
    fn step(&mut self) -> Option<Result<Exit, Error>> {
        let machine = &self.machine;
        let tail = || machine.console_tail();
        let reason = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => return machine.ports.write(port, data).map(Ok),
            Ok(VcpuExit::IoIn(port, data)) => {
                machine.ports.read(port, data);
                return None;
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                machine.mmio.read(address, data);
                return None;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                machine.mmio.write(address, data);
                return None;
            }
            // A kick, for a pause or the end, both of which are checked after this. The reason for
            // a kick is set before it is made, so none is lost.
            Ok(VcpuExit::Intr) => {
                self.kick.clear();
                return None;
            }
            Err(error) if error.errno() == libc::EINTR => {
                self.kick.clear();
                return None;
            }
            Err(error) if error.errno() == libc::EAGAIN => return None,
            Ok(VcpuExit::Shutdown) => {
                let console_tail = tail();
                return Some(Err(Error::TripleFault { console_tail }));
            }
            Ok(VcpuExit::FailEntry(reason, _cpu)) => {
                let console_tail = tail();
                return Some(Err(Error::FailEntry {
                    reason,
                    console_tail,
                }));
            }
            Ok(VcpuExit::SystemEvent(kind, _)) => match kind {
                kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => return Some(Ok(Exit::PowerOff)),
                kvm_bindings::KVM_SYSTEM_EVENT_RESET => return Some(Ok(Exit::Reset)),
                _ => format!("system event {kind}"),
            },
            Ok(VcpuExit::InternalError) => {
                let console_tail = tail();
                return Some(Err(self.internal_error(console_tail)));
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => {
                return Some(Err(Error::Run {
                    source: error.into(),
                    console_tail: tail(),
                }));
            }
        };
        Some(Err(Error::UnexpectedExit {
            reason,
            console_tail: tail(),
        }))
    }

    fn internal_error(&mut self, console_tail: String) -> Error {
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this
        // member of the union. All its values are valid.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let data = internal.data.iter().copied();
        Error::InternalError {
            suberror: internal.suberror,
            data: data.take(internal.ndata as usize).collect(),
            console_tail,
        }
    }
}

/// Exists for as long as the thread runs the vCPU.
struct Presence {
    kick: Arc<Kick>,
    machine: Arc<Machine>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.kick.release();
        if std::thread::panicking() {
            self.machine.end(Err(Error::UnexpectedExit {
                reason: "a device panicked".to_owned(),
                console_tail: self.machine.console_tail(),
            }));
        }
        self.machine.thread_done();
    }
}
