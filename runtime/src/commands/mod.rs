//! The commands, each in a file of its name.

mod checkpoint;
mod create;
mod delete;
mod doctor;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod protect;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod table;
mod update;

use std::{
    env,
    io::{self, Write},
};

use crate::{
    cli::{Cli, Command, Global},
    config::Config,
    error::Error,
    id::Id,
    isolation::{Found, Isolation, process},
    state::{Record, StateError, Store},
};

pub(crate) use exec::ExecProcessError;
pub(crate) use protect::{protect, surely_enter_a_container};
pub(crate) use update::ResourcesError;

/// The newest version of the OCI runtime spec that nacre knows.
pub(crate) const OCI_VERSION: &str = "1.3.0";

/// Carries a command out; returns the exit status.
pub(crate) fn dispatch(cli: Cli) -> Result<u8, Error> {
    let global = &cli.global;
    match &cli.command {
        Command::Run(arguments) => run::run(global, arguments),
        Command::Create(arguments) => create::create(global, arguments),
        Command::Exec(arguments) => exec::exec(global, arguments),
        Command::Ps(arguments) => ps::ps(global, arguments),
        Command::Pause(arguments) => pause::pause(global, arguments),
        Command::Resume(arguments) => pause::resume(global, arguments),
        Command::Update(arguments) => update::update(global, arguments),
        Command::Events(arguments) => events::events(global, arguments),
        Command::Checkpoint(arguments) => checkpoint::checkpoint(global, arguments),
        Command::Restore(arguments) => checkpoint::restore(global, arguments),
        Command::Start(arguments) => start::start(global, arguments),
        Command::Spec(arguments) => spec::spec(global, arguments),
        Command::Features => features::features(global),
        Command::Doctor(arguments) => doctor::doctor(global, arguments),
        Command::State(arguments) => state::state(global, arguments),
        Command::List(arguments) => list::list(global, arguments),
        Command::Kill(arguments) => kill::kill(global, arguments),
        Command::Delete(arguments) => delete::delete(global, arguments),
    }
}

/// How containers are isolated for which no annotation says otherwise.
fn isolation(global: &Global) -> Result<Isolation, Error> {
    let config = Config::load(global.config.as_deref())?;
    let binary = Isolation::from_binary(env::args_os().next().as_deref());
    let isolation = Isolation::choose(global.isolation, None, binary, config.isolation);
    Ok(isolation?)
}

/// The state directory that `--root` names.
fn store(global: &Global) -> Result<Store, Error> {
    Store::new(&global.root).map_err(|source| {
        StateError::Io {
            what: "can't use the state directory",
            path: global.root.clone(),
            source,
        }
        .into()
    })
}

/// The container of a record, if it is on the host's kernel: what `command` does can't be done
/// in a VM.
fn on_host<'a>(
    store: &Store,
    id: &Id,
    record: &'a Record,
    command: &'static str,
) -> Result<process::Found<'a>, Error> {
    match Found::new(store, id, record) {
        Found::Process(found) => Ok(found),
        Found::Vm(_) => Err(Error::NotInVm(command)),
    }
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), Error> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Error::Output)
}

/// Prints a document as JSON, for programs and people.
fn print_json(document: &serde_json::Value) -> Result<(), Error> {
    print(&format!("{document:#}\n"))
}
