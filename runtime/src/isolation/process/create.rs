//! `nacre create`, and what `nacre run` has in common with it.

use std::{os::fd::OwnedFd, path::PathBuf};

use nacre_agent::container::{
    Container, Gate, Handle, Options, Stdio,
    cgroups::{Cgroup, Manager, Place},
    config,
};
use nacre_vmm::phase;

use crate::{
    config::bundle::Bundle,
    id::Id,
    isolation::{
        console, hooks,
        record::new_record,
        remains,
        status_error::StatusError,
        told::{self, Told},
    },
    log,
    state::{By, Folder, Record, Store, record::HostRecord},
    systemd::Systemd,
};

use super::{delete, descriptors, error::ProcessError};

/// A container to be made.
#[derive(Debug)]
pub(crate) struct CreateRequest {
    pub(crate) id: Id,
    pub(crate) bundle: Bundle,
    /// Who is to be told of its first process.
    pub(crate) told: Told,
    /// Where its terminal's master is sent.
    pub(crate) console_socket: Option<PathBuf>,
    /// How many more descriptors it gets.
    pub(crate) preserve_fds: u32,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    /// Whether it must have a cgroup, even if an ordinary user makes it.
    pub(crate) needs_cgroup: bool,
    /// Whether systemd makes its cgroup.
    pub(crate) systemd_cgroup: bool,
}

/// Makes a container, which then waits to be started.
pub(crate) fn create(store: &Store, request: CreateRequest) -> Result<(), ProcessError> {
    let made = NewContainer::new(store, request, Starter::Another)?;
    if let Err(source) = made.container.let_go() {
        made.undo();
        return Err(ProcessError::host("can't let the container's init wait")(
            source,
        ));
    }
    Ok(made.folder.release()?)
}

/// Who starts a container that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Starter {
    /// Another process.
    Another,
    /// This process, which then leaves it alone.
    Detached,
    /// This process, which then waits for its end.
    InForeground,
}

/// A container that was made and recorded.
pub(super) struct NewContainer {
    pub(super) container: Container,
    /// Locked.
    pub(super) folder: Folder,
    pub(super) record: Record,
}

impl NewContainer {
    /// Makes a container. Nothing is left of it if that fails.
    pub(super) fn new(
        store: &Store,
        mut request: CreateRequest,
        starter: Starter,
    ) -> Result<Self, ProcessError> {
        let prepared = Prepared::new(&mut request, starter)?;
        let folder = remains::claim(store, &request.id)?;
        let Bundle {
            directory, spec, ..
        } = &request.bundle;
        let by = By::Process(HostRecord {
            cgroup: prepared.cgroup.clone(),
            ..new_process(request.no_new_keyring)
        });
        let record = new_record(&request.id, directory.clone(), spec, by);
        let mut claimed = Claimed {
            folder,
            record,
            has_begun: false,
        };
        match claimed.make(&request, prepared) {
            Ok(container) => Ok(Self {
                container,
                folder: claimed.folder,
                record: claimed.record,
            }),
            Err(error) => {
                claimed.undo();
                Err(error)
            }
        }
    }

    /// Records a container that was made in another way, as `record` has it.
    pub(super) fn restored(folder: Folder, record: Record) -> Result<Self, ProcessError> {
        let By::Process(process) = &record.by else {
            return Err(StatusError::HasStopped.into());
        };
        let handle = Handle {
            init: process.init.ok_or(StatusError::HasStopped)?,
            cgroup: process.cgroup.clone(),
        };
        let container = Container::attach(handle, folder.path()).map_err(ProcessError::host(
            "can't look for the container's first process",
        ))?;
        let made = Self {
            container,
            folder,
            record,
        };
        match made.folder.write(&made.record) {
            Ok(()) => Ok(made),
            Err(error) => {
                made.undo();
                Err(error.into())
            }
        }
    }

    /// Removes the container after its end.
    pub(super) fn destroy(self) -> Result<(), ProcessError> {
        delete::destroy_container(self.container)?;
        self.folder.remove()?;
        hooks::poststop(&self.record);
        Ok(())
    }

    /// Removes everything of the container because of an error, which is the one to report.
    pub(super) fn undo(self) {
        undo(self.container);
        remove(self.folder);
        hooks::poststop(&self.record);
    }
}

/// What a container gets of this process, made ready before anything of it exists.
struct Prepared {
    starter: Starter,
    console_socket: Option<OwnedFd>,
    /// How many more descriptors it gets, with those of a socket activation.
    preserve_fds: u32,
    /// Who makes its cgroup, if that isn't this process.
    systemd: Option<Systemd>,
    /// What this process makes, which depends on the cgroup that this process is in.
    cgroup: Option<Cgroup>,
}

impl Prepared {
    /// Looks at the request, and completes its configuration.
    fn new(request: &mut CreateRequest, starter: Starter) -> Result<Self, ProcessError> {
        let Bundle {
            directory, spec, ..
        } = &mut request.bundle;
        config::resolve_paths(spec, directory);
        let console_socket = console::connect(
            request.console_socket.as_deref(),
            console::has_terminal(spec.process().as_ref()),
            starter != Starter::InForeground,
        )?;
        let preserve_fds = match spec.process_mut() {
            Some(process) => descriptors::pass_on(process, request.preserve_fds)?,
            None => request.preserve_fds,
        };
        let (systemd, cgroup) = if request.systemd_cgroup {
            (Some(Systemd::connect()?), None)
        } else {
            let linux = spec.linux().as_ref();
            let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
            // Whoever makes it says what is wrong with it.
            let place = Place::find(path, request.id.as_str()).ok().flatten();
            (None, place.map(|place| place.cgroup()))
        };
        Ok(Self {
            starter,
            console_socket,
            preserve_fds,
            systemd,
            cgroup,
        })
    }
}

/// The folder of a container that is being made.
struct Claimed {
    /// Locked.
    folder: Folder,
    record: Record,
    /// Whether the container's first process has existed, so that hooks may have run.
    has_begun: bool,
}

impl Claimed {
    /// Makes and records the container.
    fn make(
        &mut self,
        request: &CreateRequest,
        prepared: Prepared,
    ) -> Result<Container, ProcessError> {
        // Whoever finds the folder after this process was killed knows what to remove.
        self.folder.write(&self.record)?;
        self.folder.write_config(&request.bundle.json)?;
        let container = self.create(request, prepared)?;
        match self.record(request, &container) {
            Ok(()) => Ok(container),
            Err(error) => {
                undo(container);
                Err(error)
            }
        }
    }

    /// Has the engine create the container.
    fn create(
        &mut self,
        request: &CreateRequest,
        prepared: Prepared,
    ) -> Result<Container, ProcessError> {
        let gate = match prepared.starter {
            Starter::Another => Some(
                Gate::make(self.folder.path())
                    .map_err(ProcessError::host("can't make the socket to wait at"))?,
            ),
            Starter::Detached | Starter::InForeground => None,
        };
        let stdio =
            Stdio::inherit().map_err(ProcessError::host("can't duplicate the standard streams"))?;
        let Bundle {
            directory, spec, ..
        } = &request.bundle;
        let options = Options {
            gate,
            console_socket: prepared.console_socket,
            preserve_fds: prepared.preserve_fds,
            cgroup_manager: match &prepared.systemd {
                Some(systemd) => Manager::Systemd(systemd),
                None => Manager::Files,
            },
            no_pivot: request.no_pivot,
            no_new_keyring: request.no_new_keyring,
            ..Options::new(request.id.as_str(), directory, stdio)
        };
        // SAFETY: this process has no other thread.
        let created = unsafe { Container::create(spec, options) };
        self.has_begun = created.as_ref().map_or_else(|e| e.had_begun(), |_| true);
        phase::ended("container");
        Ok(created?)
    }

    /// Records the container, and tells the caller of it, if it is as it must be.
    fn record(
        &mut self,
        request: &CreateRequest,
        container: &Container,
    ) -> Result<(), ProcessError> {
        if request.needs_cgroup && container.cgroup().is_none() {
            return Err(ProcessError::MustHaveCgroup);
        }
        tracing::debug!(
            "container {}: its first process is {}, its cgroup {:?}",
            request.id,
            container.pid(),
            container.cgroup().map(Cgroup::path)
        );
        let handle = container.handle();
        self.record.by = By::Process(HostRecord {
            init: Some(handle.init),
            cgroup: handle.cgroup,
            ..new_process(request.no_new_keyring)
        });
        self.folder.write(&self.record)?;
        Ok(request.told.tell(told::StartedAs::First, container.pid())?)
    }

    /// Removes what there is of a container that couldn't be made.
    fn undo(self) {
        remove(self.folder);
        if self.has_begun {
            hooks::poststop(&self.record);
        }
    }
}

fn undo(container: Container) {
    if let Err(error) = delete::destroy_container(container) {
        tracing::warn!("{}", log::chain(&error));
    }
}

fn remove(folder: Folder) {
    if let Err(error) = folder.remove() {
        tracing::warn!("{}", log::chain(&error));
    }
}

/// Returns the record of a container of which nothing exists yet.
pub(super) fn new_process(no_new_keyring: bool) -> HostRecord {
    HostRecord {
        init: None,
        cgroup: None,
        own_keyring: !no_new_keyring,
    }
}
