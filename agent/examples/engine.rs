//! Runs a bundle with the container engine on this host's kernel: `engine BUNDLE`.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use nacre_agent::container::{
    Container, CreateError, Options, Stdio, config, describe, protect_executable,
};
use nix::sys::wait::{WaitStatus, waitpid};

fn main() -> ExitCode {
    let Some(bundle) = std::env::args_os().nth(1) else {
        eprintln!("usage: engine BUNDLE");
        return ExitCode::FAILURE;
    };
    match run(Path::new(&bundle)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("engine: {}", describe(error.as_ref()));
            let status = error.downcast_ref().map_or(1, CreateError::exit_status);
            ExitCode::from(status)
        }
    }
}

fn run(bundle: &Path) -> Result<u8, Box<dyn Error>> {
    protect_executable()?;
    let bundle = bundle.canonicalize()?;
    let mut spec = config::load(&std::fs::read(bundle.join("config.json"))?)?;
    config::resolve_paths(&mut spec, &bundle);
    let id = format!("engine-{}", std::process::id());
    let options = Options::new(&id, &bundle, Stdio::inherit()?);
    // SAFETY: this process has no other thread.
    let mut container = unsafe { Container::create(&spec, options) }?;
    let ended = container
        .start()
        .map_err(Box::<dyn Error>::from)
        .and_then(|()| Ok(waitpid(container.pid(), None)?));
    if container.oom_killed() {
        eprintln!("engine: the memory limit killed something");
    }
    container.destroy()?;
    match ended? {
        WaitStatus::Exited(_, code) => Ok(code as u8),
        WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as u8),
        other => Err(format!("{other:?}").into()),
    }
}
