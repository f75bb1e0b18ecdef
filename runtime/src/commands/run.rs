//! `nacre run`: a container from its bundle to its workload's exit status.

use std::env;

use crate::{
    cli::{Global, Run},
    config::{Config, ConfigError, annotations::Annotations, bundle::Bundle},
    error::Error,
    id::Id,
    isolation::{Isolation, IsolationError, vm},
};

use super::store;

pub(super) fn run(global: &Global, arguments: &Run) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    refuse_flags(arguments)?;
    let config = Config::load(global.config.as_deref())?;
    let bundle = Bundle::load(&arguments.bundle)?;
    let annotations =
        Annotations::parse(bundle.spec.annotations().as_ref()).map_err(ConfigError::from)?;
    let isolation = Isolation::choose(
        global.isolation,
        annotations.isolation,
        Isolation::from_binary(env::args_os().next().as_deref()),
        config.isolation,
    );
    let options = vm::Options {
        detach: arguments.detach,
        keep: arguments.keep || arguments.detach,
        pid_file: arguments.pid_file.clone(),
        debug: global.debug,
    };
    let store = store(global)?;
    match isolation {
        Isolation::Vm => Ok(vm::run(
            &store,
            id,
            bundle,
            &annotations,
            &config.vm,
            options,
        )?),
        Isolation::Process => Err(IsolationError::NoProcess.into()),
    }
}

/// Refuses what can't be honoured yet.
fn refuse_flags(arguments: &Run) -> Result<(), Error> {
    if arguments.console_socket.is_some() {
        return Err(Error::Flag {
            flag: "--console-socket",
            reason: ", as terminals aren't",
        });
    }
    if arguments.preserve_fds != 0 {
        return Err(Error::Flag {
            flag: "--preserve-fds",
            reason: ": a VM has no way to the caller's files",
        });
    }
    Ok(())
}
