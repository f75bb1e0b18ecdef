//! `nacre exec`: starts a further process in a container.

use crate::{
    cli::{Exec, Global},
    id::Id,
    isolation::{ExecRequest, FoundContainer, process, told::Told, vm},
};

use super::{
    containers::store,
    error::Error,
    exec_process::{assemble, cgroups, read},
    protect::protect,
};

pub(super) fn exec(global: &Global, arguments: &Exec) -> Result<u8, Error> {
    let (id, program) = arguments.words();
    let id = Id::new(id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let found = FoundContainer::new(&store, &id, &seen.record);
    if arguments.detach || matches!(found, FoundContainer::Process(_)) {
        protect()?;
    }
    let spec = store.spec(&id)?;
    let process = match &arguments.process {
        Some(path) => read(path)?,
        None => assemble(spec.process().clone(), arguments, program)?,
    };
    let request = ExecRequest {
        process: &process,
        detach: arguments.detach,
        told: Told {
            pid_file: arguments.pid_file.clone(),
            pidfd_socket: arguments.pidfd_socket.clone(),
        },
        console_socket: arguments.console_socket.as_deref(),
        preserve_fds: arguments.preserve_fds,
        cgroups: arguments
            .cgroup
            .iter()
            .flat_map(|value| cgroups(value))
            .collect(),
        ignore_paused: arguments.ignore_paused,
    };
    Ok(match found {
        FoundContainer::Process(found) => process::exec(&found, seen.status, &spec, &request)?,
        FoundContainer::Vm(found) => vm::exec(&found, seen.status, &request)?,
    })
}
