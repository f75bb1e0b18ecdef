//! `nacre run`: a container from its bundle to its workload's exit status.

use crate::{
    cli::{Global, Run},
    error::Error,
    isolation::{Isolation, process, vm::How},
};

use super::{create::Prepared, store};

pub(super) fn run(global: &Global, arguments: &Run) -> Result<u8, Error> {
    let create = &arguments.create;
    let prepared = Prepared::new(global, &create.id, &create.bundle)?;
    match prepared.isolation {
        Isolation::Vm => {
            let how = match (arguments.detach, arguments.keep) {
                (true, _) => How::Detached,
                (false, keep) => How::InForeground { keep },
            };
            prepared.run_vm(global, create, how)
        }
        Isolation::Process => {
            let how = process::How {
                detach: arguments.detach,
                keep: arguments.keep,
                subreaper: !arguments.no_subreaper,
            };
            let store = store(global)?;
            Ok(process::run(&store, prepared.request(global, create), how)?)
        }
    }
}
