//! Runs the command that the command line names.

use crate::cli::{Cli, Command};

use super::{
    checkpoint::{checkpoint, restore},
    compare::{boot, compare, probe},
    console::console,
    create::create,
    delete::delete,
    doctor::doctor,
    error::Error,
    events::events,
    exec::exec,
    features::features,
    kill::kill,
    list::list,
    pause::{pause, resume},
    ps::ps,
    run::run,
    spec::spec,
    start::start,
    state::state,
    top::top,
    update::update,
};

/// Runs a command; returns the exit status.
pub(crate) fn dispatch(cli: Cli) -> Result<u8, Error> {
    let global = &cli.global;
    match &cli.command {
        Command::Run(arguments) => run(global, arguments),
        Command::Create(arguments) => create(global, arguments),
        Command::Exec(arguments) => exec(global, arguments),
        Command::Ps(arguments) => ps(global, arguments),
        Command::Pause(arguments) => pause(global, arguments),
        Command::Resume(arguments) => resume(global, arguments),
        Command::Update(arguments) => update(global, arguments),
        Command::Events(arguments) => events(global, arguments),
        Command::Checkpoint(arguments) => checkpoint(global, arguments),
        Command::Restore(arguments) => restore(global, arguments),
        Command::Start(arguments) => start(global, arguments),
        Command::Spec(arguments) => spec(arguments),
        Command::Features => features(global),
        Command::Top(arguments) => top(global, arguments),
        Command::Console(arguments) => console(global, arguments),
        Command::Boot(arguments) => boot(global, arguments),
        Command::Compare(arguments) => compare(global, arguments),
        Command::Probe => probe(),
        Command::Doctor(arguments) => doctor(global, arguments),
        Command::State(arguments) => state(global, arguments),
        Command::List(arguments) => list(global, arguments),
        Command::Kill(arguments) => kill(global, arguments),
        Command::Delete(arguments) => delete(global, arguments),
    }
}
