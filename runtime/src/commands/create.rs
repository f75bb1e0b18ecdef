//! `nacre create`: creates a container, up to its workload's exec.

use std::{env, path::Path};

use nacre_vmm::phase;

use crate::{
    cli::{Create, Global, Rootless},
    config::{
        Choice, Config, ConfigError, Isolation, annotations::Annotations, bundle::Bundle,
        hypervisor::HypervisorChoice,
    },
    id::Id,
    isolation::{
        process::{self, CreateRequest},
        told::Told,
        vm::{self, RunMode, VmOptions},
    },
};

use super::{containers::store, error::Error, protect::protect};

pub(super) fn create(global: &Global, arguments: &Create) -> Result<u8, Error> {
    let prepared = Prepared::new(global, &arguments.id, &arguments.bundle)?;
    match prepared.isolation {
        Isolation::Vm => prepared.run_vm(global, arguments, RunMode::Create),
        Isolation::Process => {
            process::create(&store(global)?, prepared.request(global, arguments))?;
            Ok(0)
        }
    }
}

/// Returns who is to be told of the process that stands for the container.
fn told(arguments: &Create) -> Told {
    Told {
        pid_file: arguments.pid_file.clone(),
        pidfd_socket: arguments.pidfd_socket.clone(),
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
    /// Reads and checks everything before anything is created.
    pub(super) fn new(global: &Global, id: &str, bundle: &Path) -> Result<Self, Error> {
        let id = Id::new(id)?;
        let binary = Isolation::from_binary(env::args_os().next().as_deref());
        let config = Config::load(global.config.as_deref())?;
        let bundle = Bundle::load(bundle)?;
        let annotations =
            Annotations::parse(bundle.spec.annotations().as_ref()).map_err(ConfigError::from)?;
        let isolation = Choice {
            flag: global.isolation,
            annotation: annotations.isolation,
            binary,
            config: config.isolation,
            annotation_may_lower: config.annotation_may_lower_isolation,
        }
        .isolation()?;
        tracing::debug!(
            "container {id}: of the bundle {}, isolation {}",
            bundle.directory.display(),
            isolation.name()
        );
        if isolation == Isolation::Vm {
            vm::become_root()?;
        }
        // With either isolation, a process of this program can be seen from a container's
        // namespaces.
        protect()?;
        phase::ended("configuration");
        // Not earlier, since these may run the program anew.
        for line in &bundle.left_out {
            tracing::warn!("{}: {line}", bundle.directory.join("config.json").display());
        }
        Ok(Self {
            id,
            bundle,
            annotations,
            config,
            isolation,
        })
    }

    /// Creates the container in a VM, and continues as `mode` says; returns the exit status.
    pub(super) fn run_vm(
        self,
        global: &Global,
        arguments: &Create,
        mode: RunMode,
    ) -> Result<u8, Error> {
        let options = VmOptions {
            mode,
            told: told(arguments),
            console_socket: arguments.console_socket.clone(),
            preserve_fds: arguments.preserve_fds,
            no_new_keyring: arguments.no_new_keyring,
            debug: global.debug,
            hypervisor: HypervisorChoice {
                flag: global.hypervisor,
                annotation: self.annotations.hypervisor,
                config: self.config.vm.hypervisor,
                annotation_may_lower: self.config.annotation_may_lower_isolation,
            },
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

    /// Builds the request for process isolation.
    pub(super) fn request(self, global: &Global, arguments: &Create) -> CreateRequest {
        CreateRequest {
            id: self.id,
            bundle: self.bundle,
            told: told(arguments),
            console_socket: arguments.console_socket.clone(),
            preserve_fds: arguments.preserve_fds,
            no_pivot: arguments.no_pivot,
            no_new_keyring: arguments.no_new_keyring,
            needs_cgroup: global.rootless == Rootless::False,
            systemd_cgroup: global.systemd_cgroup,
        }
    }
}
