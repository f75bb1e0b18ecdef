//! `nacre create`, and the part of `nacre run` that is the same.

use std::path::PathBuf;

use nacre_agent::container::{Container, Gate, Handle, Options, Stdio, cgroups::Manager, config};

use crate::{
    config::bundle::Bundle,
    id::Id,
    isolation::{StatusError, console, hooks, new_record, pid_file},
    log,
    state::{By, Folder, Record, Store, record::Process},
    systemd::Systemd,
};

use super::{ProcessError, delete, descriptors};

/// A container to be made.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: Id,
    pub(crate) bundle: Bundle,
    /// Where to write its first process's pid.
    pub(crate) pid_file: Option<PathBuf>,
    /// Where its terminal's master is sent.
    pub(crate) console_socket: Option<PathBuf>,
    /// How many more descriptors it gets.
    pub(crate) preserve_fds: u32,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    /// Whether it can't go without a cgroup, even if an ordinary user makes it.
    pub(crate) needs_cgroup: bool,
    /// Whether systemd makes its cgroup.
    pub(crate) systemd_cgroup: bool,
}

/// Makes a container, which waits for its start.
pub(crate) fn create(store: &Store, request: Request) -> Result<(), ProcessError> {
    let made = Made::new(store, request, Starter::Another)?;
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
    /// This one, which then leaves it alone.
    Detached,
    /// This one, which then waits for its end.
    InForeground,
}

/// A container that was made, and is written down.
pub(super) struct Made {
    pub(super) container: Container,
    /// Locked.
    pub(super) folder: Folder,
    pub(super) record: Record,
}

impl Made {
    /// Makes a container. Nothing is left of it if that fails.
    pub(super) fn new(
        store: &Store,
        request: Request,
        starter: Starter,
    ) -> Result<Self, ProcessError> {
        let Bundle {
            directory,
            mut spec,
            json,
        } = request.bundle;
        config::resolve_paths(&mut spec, &directory);
        let console_socket = console::connect(
            request.console_socket.as_deref(),
            console::has_terminal(spec.process().as_ref()),
            starter != Starter::InForeground,
        )?;
        let preserve_fds = match spec.process_mut() {
            Some(process) => descriptors::pass_on(process, request.preserve_fds)?,
            None => request.preserve_fds,
        };
        let systemd = match request.systemd_cgroup {
            true => Some(Systemd::connect()?),
            false => None,
        };
        let cgroup_manager = match &systemd {
            Some(systemd) => Manager::Systemd(systemd),
            None => Manager::Files,
        };
        let folder = store.claim(&request.id)?;
        let mut process = new_process(request.no_new_keyring);
        let by = By::Process(process.clone());
        let mut record = new_record(&request.id, directory.clone(), &spec, by);
        let mut begun = false;
        let make = || -> Result<Container, ProcessError> {
            // Whoever finds the folder after this process was killed knows what to remove.
            folder.write(&record)?;
            folder.write_config(&json)?;
            let gate = match starter {
                Starter::Another => Some(
                    Gate::make(folder.path())
                        .map_err(ProcessError::host("can't make the socket to wait at"))?,
                ),
                Starter::Detached | Starter::InForeground => None,
            };
            let stdio = Stdio::inherit()
                .map_err(ProcessError::host("can't duplicate the standard streams"))?;
            let options = Options {
                gate,
                console_socket,
                preserve_fds,
                cgroup_manager,
                no_pivot: request.no_pivot,
                no_new_keyring: request.no_new_keyring,
                ..Options::new(request.id.as_str(), &directory, stdio)
            };
            let container =
                Container::create(&spec, options).inspect_err(|e| begun = e.had_begun())?;
            begun = true;
            if request.needs_cgroup && container.cgroup().is_none() {
                undo(container);
                return Err(ProcessError::MustHaveCgroup);
            }
            let handle = container.handle();
            process.init = Some(handle.init);
            process.cgroup = handle.cgroup;
            record.by = By::Process(process);
            let written = folder.write(&record).map_err(ProcessError::from);
            let written = written.and_then(|()| match &request.pid_file {
                Some(path) => Ok(pid_file::write(path, container.pid())?),
                None => Ok(()),
            });
            match written {
                Ok(()) => Ok(container),
                Err(error) => {
                    undo(container);
                    Err(error)
                }
            }
        };
        match make() {
            Ok(container) => Ok(Self {
                container,
                folder,
                record,
            }),
            Err(error) => {
                remove(folder);
                if begun {
                    hooks::poststop(&record);
                }
                Err(error)
            }
        }
    }

    /// Writes a container down that was made in another way, as `record` has it.
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

    /// Removes it, now that it has ended.
    pub(super) fn destroy(self) -> Result<(), ProcessError> {
        delete::destroy_container(self.container)?;
        self.folder.remove()?;
        hooks::poststop(&self.record);
        Ok(())
    }

    /// Leaves nothing of it, because of an error that is the one to tell.
    pub(super) fn undo(self) {
        undo(self.container);
        remove(self.folder);
        hooks::poststop(&self.record);
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

/// A container of which there is nothing yet.
pub(super) fn new_process(no_new_keyring: bool) -> Process {
    Process {
        init: None,
        cgroup: None,
        own_keyring: !no_new_keyring,
    }
}
