//! `nacre run`: a container from its bundle to its workload's exit status.

use crate::{
    cli::{Global, Run},
    error::Error,
    isolation::{Isolation, process, vm},
};

use super::{create::Prepared, store};

pub(super) fn run(global: &Global, arguments: &Run) -> Result<u8, Error> {
    let create = &arguments.create;
    let prepared = Prepared::new(global, &create.id, &create.bundle)?;
    let store = store(global)?;
    match prepared.isolation {
        Isolation::Vm => {
            refuse_flags(arguments)?;
            let options = vm::Options {
                detach: arguments.detach,
                keep: arguments.keep || arguments.detach,
                pid_file: create.pid_file.clone(),
                debug: global.debug,
                hypervisor: global.hypervisor,
            };
            let Prepared {
                id,
                bundle,
                annotations,
                config,
                ..
            } = prepared;
            let status = vm::run(&store, id, bundle, &annotations, &config.vm, options)?;
            Ok(status)
        }
        Isolation::Process => {
            let how = process::How {
                detach: arguments.detach,
                keep: arguments.keep,
                subreaper: !arguments.no_subreaper,
            };
            Ok(process::run(&store, prepared.request(global, create), how)?)
        }
    }
}

/// Refuses what can't be honoured in a VM yet.
fn refuse_flags(arguments: &Run) -> Result<(), Error> {
    if arguments.create.console_socket.is_some() {
        return Err(Error::Flag {
            flag: "--console-socket",
            reason: " with --isolation=vm, as terminals aren't",
        });
    }
    if arguments.create.preserve_fds != 0 {
        return Err(Error::Flag {
            flag: "--preserve-fds",
            reason: " with --isolation=vm: a VM has no way to the caller's files",
        });
    }
    Ok(())
}
