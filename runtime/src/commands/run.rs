//! `nacre run`: runs a container from its bundle to its workload's exit status.

use crate::{
    cli::{Global, Run},
    config::Isolation,
    isolation::{
        process::{self, RunOptions},
        vm::RunMode,
    },
};

use super::{containers::store, create::Prepared, error::Error};

pub(super) fn run(global: &Global, arguments: &Run) -> Result<u8, Error> {
    let create = &arguments.create;
    let prepared = Prepared::new(global, &create.id, &create.bundle)?;
    match prepared.isolation {
        Isolation::Vm => {
            let mode = match (arguments.detach, arguments.keep) {
                (true, _) => RunMode::Detached,
                (false, keep) => RunMode::InForeground { keep },
            };
            prepared.run_vm(global, create, mode)
        }
        Isolation::Process => {
            let options = RunOptions {
                detach: arguments.detach,
                keep: arguments.keep,
                subreaper: !arguments.no_subreaper,
            };
            let store = store(global)?;
            Ok(process::run(
                &store,
                prepared.request(global, create),
                options,
            )?)
        }
    }
}
