//! The first step of the sandbox process: what is on the host before there is a machine. It leaves
//! its caller's things alone, begins the container's record, moves into a home of its own in which
//! it assembles what the guest gets of the host's files, and makes the container's stand-in.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use nacre_agent::container::Identity;
use nix::unistd::Pid;

use crate::{
    isolation::vm::{
        error::{SessionError, VmError},
        link::{GO_ON, READY_FOR_HOOKS, STANDS},
        network::Namespace,
        plan::Plan,
        stand_in::{self, StandIn, Words},
        stdio,
    },
    state::Folder,
    systemd::Systemd,
};

use super::{home::Home, inherited, notes::Notes, share::Share};

/// What is on the host before there is a machine.
pub(super) struct Site<'a> {
    pub(super) notes: Notes<'a>,
    pub(super) home: &'a Home,
    pub(super) share: Share,
    pub(super) stand_in: &'a StandIn,
    /// The words that this process was started with.
    pub(super) words: Words,
    /// systemd, if it makes the cgroup: its bus is in the host's namespaces.
    pub(super) systemd: Option<Systemd>,
}

/// Prepares the host. What has to be undone stays in `home` and `stand_in`, even after an error.
pub(super) fn prepare<'a>(
    plan: &Plan,
    folder: &'a mut Folder,
    caller: &UnixStream,
    home: &'a mut Option<Home>,
    stand_in: &'a mut Option<StandIn>,
) -> Result<Site<'a>, VmError> {
    inherited::forget().map_err(VmError::host("can't close what the caller has open"))?;
    folder.unlock_first()?;
    let folder: &Folder = folder;
    stdio::prepare_to_release().map_err(VmError::host("can't open /dev/null"))?;
    let words = Words::find().map_err(VmError::host("can't look at this process in /proc"))?;
    let this =
        Identity::of(Pid::this()).map_err(VmError::host("can't look at this process in /proc"))?;
    let mut notes = Notes::begin(folder, plan.record(this))?;
    folder.write_config(&plan.config)?;
    let systemd = if plan.options.systemd_cgroup {
        Some(Systemd::connect()?)
    } else {
        None
    };
    let role = stand_in::Role::new(plan.id.as_str(), &plan.spec, plan.network.is_new());
    if !role.makes_network() {
        plan.network.enter()?;
    }
    let home = home.insert(Home::make(folder.share()?)?);
    let share = Share::assemble(home.share(), &plan.shared)?;
    let stand_in = stand_in.insert(StandIn::make(&role, words)?);
    if role.makes_network() {
        Namespace::enter_new(stand_in.process())?;
    }
    let identity = stand_in.identity;
    notes.note(|vm| {
        vm.stand_in = Some(identity);
        vm.landlocked = share.landlocked();
    })?;
    tell_of(caller, identity.pid)?;
    if !plan.hooks.is_empty() || !notes.record().poststop.is_empty() {
        await_hooks(caller)?;
    }
    Ok(Site {
        notes,
        home,
        share,
        stand_in,
        words,
        systemd,
    })
}

/// Tells the command which process stands for the container.
fn tell_of(mut caller: &UnixStream, stand_in: i32) -> Result<(), SessionError> {
    let mut words = vec![STANDS];
    words.extend(stand_in.to_le_bytes());
    caller
        .write_all(&words)
        .map_err(|_| SessionError::CallerGone)
}

/// Waits until the command has run the hooks that belong in the host's namespaces.
fn await_hooks(mut caller: &UnixStream) -> Result<(), SessionError> {
    let mut word = [0];
    match caller
        .write_all(&[READY_FOR_HOOKS])
        .and_then(|()| caller.read_exact(&mut word))
    {
        Ok(()) if word == [GO_ON] => Ok(()),
        // The command is gone, or a hook has failed.
        _ => Err(SessionError::CallerGone),
    }
}
