//! The fourth step of the sandbox process: the conversation with the guest, from its hello until
//! the container has ended and all its output has been taken.

use std::{
    io::Write,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    time::Duration,
};

use nacre_agent::{
    container::{cgroups::Joined, forget_environment},
    protocol::{self, Create, Hello, Streams},
};
use nacre_vmm::{devices::virtio::fs::FileServer, monitor::Monitor, phase};
use oci_spec::runtime::Spec;

use crate::{
    config::rootfs::Upper,
    id::Id,
    isolation::{
        signals::Signals,
        vm::{
            control::Control,
            error::VmError,
            filter::Filter,
            guest_spec::Shared,
            limits::{self, HostLimits},
            link::CREATED,
            network::{CarriedNetwork, LiveNetwork},
            options::{RunMode, VmOptions},
            stand_in::View,
            stdio,
            terminal::Terminal,
            wire,
        },
    },
    state::record::Progress,
    systemd::Systemd,
};

use super::{
    clients::Clients,
    devices::GuestStdio,
    disk::Disk,
    effort::{Effort, pid_of},
    executed::Executed,
    file_policy::FilePolicy,
    prepare::Site,
    rights,
    service::{CallerStays, Service, ServiceParts},
    session::{Exited, Session, SessionParts},
};

/// What a conversation is about, and with whom it is.
pub(super) struct Conversation<'a> {
    pub(super) machine: &'a Monitor,
    pub(super) site: Site<'a>,
    pub(super) cgroup: Option<&'a Joined>,
    pub(super) network: &'a mut CarriedNetwork,
    pub(super) disk: Option<Disk>,
    pub(super) file_server: &'a FileServer,
    pub(super) file_alarm: Arc<OwnedFd>,
    pub(super) signals: &'a Signals,
    pub(super) caller: &'a UnixStream,
    pub(super) container: ContainerPlan<'a>,
    /// Whether this process has left the host's file systems.
    pub(super) has_left_host: &'a mut bool,
}

/// The plan, as far as the container in the guest is concerned.
pub(super) struct ContainerPlan<'a> {
    pub(super) id: &'a Id,
    pub(super) options: &'a VmOptions,
    pub(super) spec: Spec,
    pub(super) shared: &'a Shared,
    pub(super) upper: Option<&'a Upper>,
    pub(super) limits: &'a HostLimits,
    pub(super) boot_timeout: Duration,
    /// How long the guest may say nothing.
    pub(super) watchdog: Duration,
}

impl<'a> Conversation<'a> {
    /// Holds the conversation over that connection; returns how the workload has ended.
    pub(super) fn hold(
        mut self,
        control: Control,
        stdio: GuestStdio,
        file_policy: FilePolicy,
    ) -> Result<Exited, VmError> {
        let GuestStdio {
            ports,
            relays,
            mut terminal,
            expected,
        } = stdio;
        let mut session = Session::new(SessionParts {
            machine: self.machine,
            control,
            signals: self.signals,
            caller: Some(self.caller),
            id: self.container.id.to_string(),
            effort: Effort::of_processes(processes(self.machine, self.file_server)),
            has_pair: terminal.as_ref().is_some_and(Terminal::is_pair),
            file_server: Some(self.file_server),
        });
        let hello = self.create(&mut session, ports, &file_policy)?;
        if let Some(terminal) = &mut terminal {
            terminal.give_away()?;
        }
        let output = relays
            .start()
            .map_err(VmError::host("can't start a stream's thread"))?;
        let listener = self.leave_host(hello)?;
        let mut caller = self.caller;
        let _ = caller.write_all(&[CREATED]);
        if let Some(Terminal::Pair { .. }) = terminal {
            // Whoever reads both streams waits until both are closed.
            stdio::release_all().map_err(VmError::host("can't let go of the standard streams"))?;
        }
        match self.container.options.mode {
            RunMode::Create => session.forget_caller(),
            // The command starts it next: signals sent until then are for the workload.
            RunMode::Detached | RunMode::InForeground { .. } => session.keep_signals(),
        }
        let clients = Clients::new(listener);
        let mut service = self.service(
            session,
            clients,
            Executed::new(expected, file_policy),
            terminal,
        );
        let Some(exited) = service.serve()? else {
            return Ok(Exited::killed(service.ran_out_of_memory()));
        };
        service.drain(&output)?;
        Ok(exited)
    }

    /// Has the guest create the container, whose process connects its streams to these ports, and
    /// shows it to the stand-in.
    fn create(
        &mut self,
        session: &mut Session<'a, Monitor>,
        ports: Streams,
        file_policy: &FilePolicy,
    ) -> Result<Hello, VmError> {
        let timeout = self.container.boot_timeout;
        let hello = session.hello(timeout)?;
        tracing::debug!("the guest says hello from kernel {}", hello.kernel);
        phase::ended("hello");
        if let Some(network) = self.network.update(self.machine)? {
            session.set_network(network, timeout)?;
        }
        phase::ended("network");
        let view = View::new(&self.container.spec, self.container.shared);
        let process = self.container.spec.process().clone();
        session.create(self.container.create(&self.site, ports), timeout)?;
        tracing::debug!("container {}: created in the guest", self.container.id);
        phase::ended("container");
        let stand_in = self.site.stand_in;
        if let Some(trees) = self.site.share.take_trees() {
            stand_in.confine(view.make(&self.site.home.view(), trees)?)?;
        }
        session.hear_stand_in(stand_in.line());
        self.site.share.seal_root()?;
        self.site.share.seal_root_of(self.file_server)?;
        file_policy.enforce(process.as_ref())?;
        phase::ended("shown");
        Ok(hello)
    }

    /// Does what remains to be done on the host, and leaves it; returns where commands connect.
    fn leave_host(&mut self, hello: Hello) -> Result<UnixListener, VmError> {
        let folder = self.site.notes.folder();
        let listener = wire::listen(folder.path())
            .map_err(VmError::host("can't listen in the container's folder"))?;
        limit(self.cgroup, &self.container, self.site.systemd.take())?;
        note_created(&mut self.site, self.cgroup, hello)?;
        let cgroup = self.cgroup.into_iter();
        let cgroup = cgroup.flat_map(|joined| joined.cgroup().paths());
        self.site.home.leave_host(folder.path(), cgroup)?;
        *self.has_left_host = true;
        // SAFETY: it is this process's environment, for which its other threads have no use.
        unsafe { forget_environment() };
        rights::AFTER_LEAVING
            .keep()
            .map_err(VmError::host("can't give up this process's rights"))?;
        Filter::Serving
            .install()
            .map_err(VmError::host("can't filter this process's system calls"))?;
        phase::ended("left");
        Ok(listener)
    }

    /// Returns the service of the created container.
    fn service(
        self,
        session: Session<'a, Monitor>,
        clients: Clients,
        executed: Executed,
        terminal: Option<Terminal>,
    ) -> Service<'a, Monitor> {
        let limits = self
            .cgroup
            .and_then(|joined| self.container.limits.of_workload(joined.cgroup()));
        let parts = ServiceParts {
            notes: self.site.notes,
            clients,
            executed,
            limits,
            terminal,
            disk: self.disk,
            file_alarm: Some(self.file_alarm),
            network: Some(LiveNetwork::new(self.network, self.machine)),
            caller_stays: match self.container.options.mode {
                RunMode::Detached => CallerStays::UntilStarted,
                RunMode::Create | RunMode::InForeground { .. } => CallerStays::UntilTheEnd,
            },
            watchdog: self.container.watchdog,
        };
        Service::new(session, parts)
    }
}

impl ContainerPlan<'_> {
    /// Returns the request to create the container, which takes the configuration.
    fn create(&mut self, site: &Site<'_>, ports: Streams) -> Create {
        Create {
            id: self.id.to_string(),
            spec: std::mem::take(&mut self.spec),
            has_share: site.share.sources().is_some(),
            mounts: site.share.mounts().to_vec(),
            bundle: site.notes.record().bundle.clone(),
            upper: self.upper.map(|upper| match upper {
                Upper::Memory { limit } => protocol::Upper::Memory { limit: *limit },
                Upper::Disk { .. } => protocol::Upper::Disk,
            }),
            streams: ports,
            no_new_keyring: self.options.no_new_keyring,
        }
    }
}

/// Returns the processes that run a machine.
fn processes(machine: &Monitor, files: &FileServer) -> Vec<u32> {
    let mut processes = vec![machine.process(), files.pid()];
    // As this process's /proc has it: QEMU is in the monitor's pid namespace.
    processes.extend(machine.qemu().and_then(pid_of));
    processes
}

/// Gives the cgroup the limits that hold back the workload, once the guest has booted.
fn limit(
    cgroup: Option<&Joined>,
    plan: &ContainerPlan<'_>,
    systemd: Option<Systemd>,
) -> Result<(), VmError> {
    if let (Some(joined), Some(limits)) = (cgroup, &plan.limits.at_start) {
        let changed = joined.cgroup().limit_where_possible(limits)?;
        limits::tell_of_left_out(&changed.left_out);
        if let Some(systemd) = &systemd {
            joined.cgroup().tell_systemd(systemd, limits)?;
        }
    }
    Ok(())
}

/// Records that the container is created, and what is known of it now.
fn note_created(site: &mut Site<'_>, cgroup: Option<&Joined>, hello: Hello) -> Result<(), VmError> {
    Ok(site.notes.note(|vm| {
        vm.guest_kernel = Some(hello.kernel);
        vm.cgroup = cgroup.map(|joined| joined.cgroup().clone());
        vm.progress = Progress::Created;
    })?)
}
