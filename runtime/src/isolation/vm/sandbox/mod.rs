//! The sandbox process: monitor and shim in one. It boots the container's microVM, relays the
//! standard streams that it inherited, and exits with the workload's exit status.

mod clients;
mod disk;
mod drain;
mod executed;
mod home;
mod initramfs;
mod service;
mod session;
mod share;
mod watchdog;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    panic::resume_unwind,
    sync::Arc,
    thread,
};

use nacre_agent::{
    container::{
        Identity,
        cgroups::{Joined, Manager, Place},
        forget_environment,
    },
    protocol::{self, CONTROL_PORT, Create, ROOT_TAG, SHARE_TAG},
};
use nacre_vmm::{
    MAX_DEVICES, MAX_QEMU_DEVICES, Qemu, RunningVm, Vm, VmConfig,
    devices::virtio::{VirtioDevice, fs::Fs, rng::Rng, vsock::Vsock},
};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    config::rootfs::Upper,
    isolation::signals::Signals,
    log,
    state::{
        By, Folder, Record,
        record::{End, Progress},
    },
    systemd::{self, Systemd},
};

use super::{
    How, Plan, VmError,
    caller::{CREATED, GO_ON, READY_FOR_HOOKS, STANDS},
    control::Control,
    hypervisor::Hypervisor,
    limits,
    network::{CarriedNetwork, LiveNetwork, Namespace},
    stand_in::{self, StandIn, View, Words},
    streams::{self, Expected, Relays, Wanted},
    terminal::Terminal,
    wire,
};
use clients::Clients;
use disk::Disk;
use executed::Executed;
use home::Home;
use service::{Notes, Service};
use session::{Exited, Session};
use share::Share;

pub(super) use disk::DiskError;
pub(super) use session::{SessionError, ends_a_start};
pub(super) use share::ShareError;

/// The guest's vsock context id. Each VM has a vsock of its own, so it needn't be unique.
const GUEST_CID: u64 = 3;

/// The kernel's command line: the agent is the initramfs's `/init`. A panic resets the machine
/// at once, through the keyboard controller, which is how the monitor learns of it. Per-CPU
/// data in pages saves a small guest 2 MiB (guest-kernel-config/README.md has figures).
const CMDLINE: &str = "console=ttyS0 panic=-1 reboot=k percpu_alloc=page";

/// Runs the container. Errors have been reported when this returns; what it returns is the
/// process's exit status.
pub(super) fn main(plan: Plan, folder: Folder, signals: &Signals, caller: UnixStream) -> u8 {
    let mut sandbox = Sandbox {
        folder,
        signals,
        caller,
        home: None,
        has_left_host: false,
        stand_in: None,
        cgroup: None,
        network: None,
    };
    let outcome = sandbox.run(plan);
    let is_alone = matches!(
        outcome,
        Err(VmError::Session {
            error: SessionError::CallerGone,
            ..
        })
    );
    let stand_in = sandbox.stand_in.take();
    let cleaned = sandbox.clean_up(is_alone, &outcome);
    for error in [outcome.as_ref().err(), cleaned.as_ref().err()] {
        match error {
            // Whoever would read it is gone.
            None
            | Some(VmError::Session {
                error: SessionError::CallerGone,
                ..
            }) => {}
            Some(error) => log::report(error),
        }
    }
    let status = outcome.unwrap_or_else(|error| error.exit_status());
    // Whoever sees the stand-in's end finds the container's folder unlocked.
    if let Some(stand_in) = stand_in {
        stand_in.line().tell_status(status);
        std::mem::forget(stand_in);
    }
    status
}

struct Sandbox<'a> {
    folder: Folder,
    signals: &'a Signals,
    caller: UnixStream,
    home: Option<Home>,
    has_left_host: bool,
    stand_in: Option<StandIn>,
    cgroup: Option<Joined>,
    network: Option<CarriedNetwork>,
}

impl Sandbox<'_> {
    fn run(&mut self, plan: Plan) -> Result<u8, VmError> {
        stand_in::close_inherited()
            .map_err(VmError::host("can't close what the caller has open"))?;
        self.folder.unlock_first()?;
        streams::prepare_to_release().map_err(VmError::host("can't open /dev/null"))?;
        let words = Words::find().map_err(VmError::host("can't look at this process in /proc"))?;
        let this = Identity::of(Pid::this())
            .map_err(VmError::host("can't look at this process in /proc"))?;
        let mut notes = Notes {
            folder: &self.folder,
            record: plan.record,
        };
        notes.note(|vm| vm.sandbox = this)?;
        self.folder.write_config(&plan.config)?;
        // Its bus is in the host's namespaces.
        let mut systemd = match plan.options.systemd_cgroup {
            true => Some(Systemd::connect()?),
            false => None,
        };
        let manager = match &systemd {
            Some(systemd) => Manager::Systemd(systemd),
            None => Manager::Files,
        };
        let kind = stand_in::Kind::of(plan.id.as_str(), &plan.spec, plan.network.is_new());
        if !kind.makes_network() {
            plan.network.enter()?;
        }
        let home = Home::make(self.folder.share()?)?;
        let home = self.home.insert(home);
        let mut share = Share::assemble(home.share(), &plan.shared)?;
        let stand_in = StandIn::make(&kind, words)?;
        let stand_in = self.stand_in.insert(stand_in);
        if kind.makes_network() {
            Namespace::enter_new(stand_in.process())?;
        }
        let of_stand_in = stand_in.identity;
        notes.note(|vm| vm.stand_in = Some(of_stand_in))?;
        tell_of(&self.caller, of_stand_in.pid)?;
        if !plan.hooks.is_empty() || !notes.record.poststop.is_empty() {
            await_hooks(&self.caller)?;
        }

        let (vsock, ports) =
            Vsock::new(GUEST_CID).map_err(VmError::host("can't make a vsock device"))?;
        let control = ports
            .expect(CONTROL_PORT)
            .and_then(Control::new)
            .map_err(VmError::host("can't make the control connection"))?;
        let mut terminal = match plan.spec.process() {
            Some(process) => Terminal::new(process, plan.console_socket)
                .map_err(VmError::host("can't make the container's terminal"))?,
            None => None,
        };
        if let Some(terminal) = &terminal {
            terminal.control().map_err(VmError::host(
                "can't make the container's terminal this process's",
            ))?;
        }
        let failed = || VmError::host("can't make the standard streams' connections");
        let mut expected = Expected::new(ports);
        let wanted = Wanted::new(terminal.as_ref()).map_err(failed())?;
        let (streams, ends) = expected.expect(wanted).map_err(failed())?;
        let relays = Relays::new(wanted, terminal.as_ref(), ends)
            .ok_or_else(|| failed()(std::io::ErrorKind::InvalidData.into()))?;
        let mut systems = vec![(ROOT_TAG, share.root())];
        systems.extend(share.sources().map(|path| (SHARE_TAG, path)));
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let file_alarm = eventfd(0, flags)
            .map_err(std::io::Error::from)
            .map_err(VmError::host("can't make an eventfd"))?;
        let file_alarm = Arc::new(file_alarm);
        let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(vsock), Box::new(Rng::new())];
        for (tag, path) in &systems {
            let device = Fs::new(tag, path)
                .map_err(VmError::host("can't make a file system device"))?
                .with_part_of_files(limits::files(plan.size.memory), systems.len() as u64)
                .with_alarm(Arc::clone(&file_alarm));
            devices.push(Box::new(device));
        }
        let disk = match &plan.upper {
            Some(Upper::Disk { size, directory }) => Some(Disk::make(directory, *size)?),
            _ => None,
        };
        if let Some(disk) = &disk {
            devices.push(Box::new(disk.device(plan.size.cpus)?));
        }
        let emulated = plan.hypervisor == Hypervisor::Qemu;
        let most = match emulated {
            true => MAX_QEMU_DEVICES,
            false => MAX_DEVICES,
        };
        let network = CarriedNetwork::open(
            plan.size.cpus as u8,
            emulated,
            most.saturating_sub(devices.len()),
        )?;
        let network = self.network.insert(network);
        tracing::debug!(
            "container {}: a VM of {} vCPUs and {} MiB, run by {}",
            plan.id,
            plan.size.cpus,
            plan.size.memory >> 20,
            plan.hypervisor.name()
        );
        let config = VmConfig {
            hypervisor: match plan.hypervisor {
                Hypervisor::Kvm => nacre_vmm::Hypervisor::Kvm,
                Hypervisor::Qemu => nacre_vmm::Hypervisor::Qemu(Qemu::at(plan.qemu)),
            },
            name: plan.id.to_string(),
            vcpus: plan.size.cpus as u8,
            memory: plan.size.memory,
            kernel: plan.kernel,
            initramfs: initramfs::build(plan.agent)
                .map_err(VmError::host("can't read the agent"))?,
            cmdline: cmdline(plan.options.debug || plan.console_log.is_some()),
            console_log: plan.console_log,
            devices,
            nic_slots: network.slots(),
            nested: plan.nested,
        };
        let (joined, machine) = while_joining(
            plan.cgroup,
            manager,
            &plan.limits.at_boot,
            of_stand_in.pid,
            || Vm::new(config),
        );
        self.cgroup = joined?;
        if let Some(joined) = &self.cgroup {
            limits::tell_of_left_out(joined.left_out());
        }
        let machine = machine.and_then(Vm::start).map_err(VmError::Make)?;

        let mut session = Session::new(
            &machine,
            control,
            self.signals,
            Some(&self.caller),
            plan.id.as_str(),
        );
        session.has_pair = terminal.as_ref().is_some_and(Terminal::is_pair);
        let converse = || -> Result<Exited, VmError> {
            let timeout = plan.boot_timeout;
            let hello = session.hello(timeout)?;
            tracing::debug!("the guest says hello from kernel {}", hello.kernel);
            if let Some(network) = network.update(&machine)? {
                session.set_network(network, timeout)?;
            }
            let view = View::of(&plan.spec, &plan.shared);
            let create = Create {
                id: plan.id.to_string(),
                spec: plan.spec,
                has_share: systems.len() > 1,
                bundle: notes.record.bundle.clone(),
                upper: plan.upper.as_ref().map(|upper| match upper {
                    Upper::Memory { limit } => protocol::Upper::Memory { limit: *limit },
                    Upper::Disk { .. } => protocol::Upper::Disk,
                }),
                streams,
                no_new_keyring: plan.options.no_new_keyring,
            };
            session.create(create, timeout)?;
            if let Some(trees) = share.take_trees() {
                stand_in.confine(view.make(&home.view(), trees)?)?;
            }
            session.line = Some(stand_in.line());
            share.seal_root()?;
            if let Some(terminal) = &mut terminal {
                terminal.give_away()?;
            }
            let output = relays
                .start()
                .map_err(VmError::host("can't start a stream's thread"))?;
            let listener = wire::listen(self.folder.path())
                .map_err(VmError::host("can't listen in the container's folder"))?;
            let systemd = systemd.take();
            if let (Some(joined), Some(limits)) = (&self.cgroup, &plan.limits.at_start) {
                let changed = joined.cgroup().limit_where_possible(limits)?;
                limits::tell_of_left_out(&changed.left_out);
                if let Some(systemd) = &systemd {
                    joined.cgroup().tell_systemd(systemd, limits)?;
                }
            }
            drop(systemd);
            notes.note(|vm| {
                vm.guest_kernel = Some(hello.kernel);
                vm.cgroup = self.cgroup.as_ref().map(|joined| joined.cgroup().clone());
                vm.progress = Progress::Created;
            })?;
            let cgroup = self
                .cgroup
                .iter()
                .flat_map(|joined| joined.cgroup().paths());
            home.leave_host(self.folder.path(), cgroup)?;
            self.has_left_host = true;
            // SAFETY: it is this process's, whose other threads have no use for it.
            unsafe { forget_environment() };
            let _ = (&self.caller).write_all(&[CREATED]);
            if let Some(Terminal::Pair { .. }) = terminal {
                // Whoever reads them waits for the end of both.
                streams::release_all()
                    .map_err(VmError::host("can't let go of the standard streams"))?;
            }
            match plan.options.how {
                How::Create => session.forget_caller(),
                // The command starts it next: what is signalled till then is the workload's.
                How::Detached | How::InForeground { .. } => session.hears_signals = false,
            }
            let executed = Executed::new(expected);
            let clients = Clients::new(listener);
            let mut service = Service::new(session, clients, notes, executed, plan.watchdog);
            service.terminal = terminal;
            service.disk = disk;
            service.file_alarm = Some(file_alarm);
            service.network = Some(LiveNetwork::new(network, &machine));
            service.forget_caller_once_started = plan.options.how == How::Detached;
            let Some(exited) = service.serve()? else {
                return Ok(Exited::killed());
            };
            service.drain(&output)?.power_off()?;
            Ok(exited)
        };
        let outcome = converse();
        let exited = end(machine, outcome).map_err(|error| match error {
            // Without QEMU this process would have been killed.
            VmError::Failed(_) => {
                let cgroup = self.cgroup.as_ref().map(Joined::cgroup);
                VmError::host_memory("QEMU", cgroup).unwrap_or(error)
            }
            error => error,
        })?;
        if exited.oom_killed {
            tracing::warn!(
                "container {}: its memory limit killed a process of it",
                plan.id
            );
        }
        Ok(exited.status)
    }

    /// Leaves nothing behind but the container's folder and its cgroup, which somebody else
    /// removes: leaving a cgroup waits for all CPUs. Unless this process is alone, and nobody
    /// is to delete the container.
    fn clean_up(self, is_alone: bool, outcome: &Result<u8, VmError>) -> Result<(), VmError> {
        // Whatever of these fails, the others are undone.
        let closed = self.network.map_or(Ok(()), CarriedNetwork::close);
        let unmounted = self.home.map_or(Ok(()), Home::unmount);
        let record = self.folder.record();
        let stays =
            |record: &Option<Record>| record.as_ref().is_some_and(Record::outlives_its_command);
        if is_alone && !record.as_ref().is_ok_and(stays) {
            if self.has_left_host {
                unmounted?;
                return Ok(closed?);
            }
            let unit = self
                .cgroup
                .as_ref()
                .and_then(|joined| joined.cgroup().unit());
            let unit = unit.map(str::to_owned);
            let left = self.cgroup.map_or(Ok(()), Joined::leave);
            if left.is_ok() {
                systemd::forget(unit.as_deref());
            }
            unmounted?;
            closed?;
            // Otherwise the record still says which cgroup it is.
            left?;
            return Ok(self.folder.remove()?);
        }
        if let Some(mut record) = record?
            && let By::Vm(vm) = &mut record.by
            && (vm.keep || is_alone)
        {
            vm.end = Some(match outcome {
                Ok(status) => End {
                    status: *status,
                    failure: None,
                },
                Err(error) => End {
                    status: error.exit_status(),
                    failure: Some(log::chain(error)),
                },
            });
            self.folder.write(&record)?;
        }
        closed?;
        Ok(unmounted?)
    }
}

/// Puts this process and the stand-in into their cgroup, which mostly is waiting, while `make`
/// works.
fn while_joining<T>(
    place: Option<Place>,
    manager: Manager<'_>,
    limits: &LinuxResources,
    stand_in: i32,
    make: impl FnOnce() -> T,
) -> (Result<Option<Joined>, VmError>, T) {
    thread::scope(|scope| {
        let join = || place.map_or(Ok(None), |place| place.join(manager, limits, stand_in));
        let joining = thread::Builder::new().spawn_scoped(scope, join);
        let made = make();
        let joined = match joining {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
                .map_err(VmError::from),
            Err(error) => Err(VmError::host("can't start a thread")(error)),
        };
        (joined, made)
    })
}

/// The kernel's own log goes to the console only where somebody reads it: each character costs
/// an exit.
fn cmdline(with_log: bool) -> String {
    match with_log {
        true => CMDLINE.into(),
        false => format!("{CMDLINE} quiet"),
    }
}

/// Tells the command which process stands for the container.
fn tell_of(mut caller: &UnixStream, stand_in: i32) -> Result<(), SessionError> {
    let mut words = vec![STANDS];
    words.extend(stand_in.to_le_bytes());
    caller
        .write_all(&words)
        .map_err(|_| SessionError::CallerGone)
}

/// Waits until the command has run the hooks that belong in the host's namespaces.
fn await_hooks(mut caller: &UnixStream) -> Result<(), SessionError> {
    let mut word = [0];
    match caller
        .write_all(&[READY_FOR_HOOKS])
        .and_then(|()| caller.read_exact(&mut word))
    {
        Ok(()) if word == [GO_ON] => Ok(()),
        // It is gone, or a hook has failed.
        _ => Err(SessionError::CallerGone),
    }
}

/// Ends the machine. What the machine says of its end explains what went wrong before.
fn end(machine: RunningVm, outcome: Result<Exited, VmError>) -> Result<Exited, VmError> {
    let console = machine.console_tail();
    let end = machine.wait();
    match (outcome, end) {
        (Err(VmError::Session { error, .. }), Err(failure)) if error.is_the_guests() => {
            Err(VmError::Failed(failure))
        }
        (Err(VmError::Session { error, .. }), _) if error.is_the_guests() => {
            Err(VmError::Session { error, console })
        }
        (outcome, _) => outcome,
    }
}
