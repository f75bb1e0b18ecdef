//! `nacre create`: a container up to its workload's exec.

use std::{env, path::Path};

use crate::{
    cli::{Create, Global, Rootless},
    config::{Config, ConfigError, annotations::Annotations, bundle::Bundle},
    error::Error,
    id::Id,
    isolation::{
        Isolation,
        process::{self, Request},
        vm::{self, How},
    },
};

use super::{protect, store};

pub(super) fn create(global: &Global, arguments: &Create) -> Result<u8, Error> {
    let prepared = Prepared::new(global, &arguments.id, &arguments.bundle)?;
    match prepared.isolation {
        Isolation::Vm => prepared.run_vm(global, arguments, How::Create),
        Isolation::Process => {
            process::create(&store(global)?, prepared.request(global, arguments))?;
            Ok(0)
        }
    }
}

/// A bundle and how it is to be isolated.
pub(super) struct Prepared {
    pub(super) id: Id,
    pub(super) bundle: Bundle,
    pub(super) annotations: Annotations,
    pub(super) config: Config,
    pub(super) isolation: Isolation,
}

impl Prepared {
    /// Reads and checks all there is to read before something is made.
    pub(super) fn new(global: &Global, id: &str, bundle: &Path) -> Result<Self, Error> {
        let id = Id::new(id)?;
        let binary = Isolation::from_binary(env::args_os().next().as_deref());
        let config = Config::load(global.config.as_deref())?;
        let bundle = Bundle::load(bundle)?;
        let annotations =
            Annotations::parse(bundle.spec.annotations().as_ref()).map_err(ConfigError::from)?;
        let isolation = Isolation::choose(
            global.isolation,
            annotations.isolation,
            binary,
            config.isolation,
        )?;
        // Of either kind a process of this program can be seen from a container's namespaces.
        protect()?;
        Ok(Self {
            id,
            bundle,
            annotations,
            config,
            isolation,
        })
    }

    /// Makes it in a VM, and goes on as `how` says; returns the exit status.
    pub(super) fn run_vm(self, global: &Global, arguments: &Create, how: How) -> Result<u8, Error> {
        let options = vm::Options {
            how,
            pid_file: arguments.pid_file.clone(),
            console_socket: arguments.console_socket.clone(),
            preserve_fds: arguments.preserve_fds,
            no_new_keyring: arguments.no_new_keyring,
            debug: global.debug,
            hypervisor: global.hypervisor,
            systemd_cgroup: global.systemd_cgroup,
        };
        let Self {
            id,
            bundle,
            annotations,
            config,
            ..
        } = self;
        let store = store(global)?;
        Ok(vm::run(
            &store,
            id,
            bundle,
            &annotations,
            &config.vm,
            options,
        )?)
    }

    /// What is asked of process isolation.
    pub(super) fn request(self, global: &Global, arguments: &Create) -> Request {
        Request {
            id: self.id,
            bundle: self.bundle,
            pid_file: arguments.pid_file.clone(),
            console_socket: arguments.console_socket.clone(),
            preserve_fds: arguments.preserve_fds,
            no_pivot: arguments.no_pivot,
            no_new_keyring: arguments.no_new_keyring,
            needs_cgroup: global.rootless == Rootless::False,
            systemd_cgroup: global.systemd_cgroup,
        }
    }
}
