//! What runs in the monitor's process.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::wire::{self, Reply, Request, Told};
use crate::channel::{Channel, Message};
use crate::config::VmConfig;
use crate::devices::virtio::net::{Net, Tap};
use crate::error::Error;
use crate::vm::{RunningVm, Vm};
use crate::wait::Wait;

/// How long the parent may take to take an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The monitor's side of the line.
pub(super) struct Line {
    pub(super) channel: Channel,
    /// Closed once the machine has ended.
    pub(super) alive: UnixStream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Request,
    End,
}

impl Line {
    /// Makes a machine, and does what the parent asks until that is done or gone. Returns what the
    /// parent can't be told.
    pub(super) fn serve(
        self,
        config: VmConfig,
        confine: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let vm = match Vm::new(config) {
            Ok(vm) => vm,
            Err(error) => return self.say(wire::UNASKED, &Reply::Failed(error.into())),
        };
        self.say(wire::UNASKED, &Reply::Done)?;
        let number = match wire::hear(&self.channel, None)? {
            Some((number, Request::Start, _)) => number,
            _ => return Ok(()),
        };
        let machine = match vm.start_confined(confine) {
            Ok(machine) => machine,
            Err(error) => return self.say(number, &Reply::Failed(error.into())),
        };
        let qemu: Vec<_> = machine.qemu().into_iter().collect();
        wire::say(&self.channel, number, &Reply::Started, &qemu, LIMIT)?;
        self.run(machine)
    }

    fn run(self, machine: RunningVm) -> io::Result<()> {
        let Line { channel, alive } = self;
        let mut alive = Some(alive);
        let number = loop {
            let exit = machine.exit_event();
            let mut wait = Wait::with_capacity(2);
            wait.readable(Event::Request, &channel);
            if alive.is_some() {
                wait.readable(Event::End, &exit);
            }
            let ready = wait.wait()?;
            if ready.has(Event::End) {
                alive = None;
            }
            if !ready.has(Event::Request) {
                continue;
            }
            let Some((number, request, message)) = wire::hear(&channel, Some(LIMIT))? else {
                return Ok(());
            };
            match carry_out(&machine, request, message) {
                Some(reply) => wire::say(&channel, number, &reply, &[], LIMIT)?,
                None => break number,
            }
        };
        let console_tail = machine.console_tail();
        let (outcome, exited) = machine.finish();
        let reply = Reply::Finished {
            outcome: outcome.map(Into::into).map_err(Told::from),
            exited,
            console_tail,
        };
        wire::say(&channel, number, &reply, &[], LIMIT)
    }

    fn say(&self, number: u64, reply: &Reply) -> io::Result<()> {
        wire::say(&self.channel, number, reply, &[], LIMIT)
    }
}

/// Returns the answer to a request; `None` if the machine is to be ended.
fn carry_out(machine: &RunningVm, request: Request, message: Message) -> Option<Reply> {
    let done = |result: Result<(), Error>| match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(error.into()),
    };
    Some(match request {
        Request::Finish => return None,
        Request::Start => Reply::Done,
        Request::Pause => done(machine.pause()),
        Request::Resume => done(machine.resume()),
        Request::Plug {
            tap,
            udp_offloads,
            mac,
            mtu,
        } => {
            let queues = message.files.into_iter().map(File::from).collect();
            plug(machine, tap, udp_offloads, queues, mac, mtu)
        }
        Request::Unplug(slot) => {
            machine.unplug_net(slot);
            Reply::Done
        }
    })
}

fn plug(
    machine: &RunningVm,
    tap: String,
    udp_offloads: bool,
    queues: Vec<File>,
    mac: [u8; 6],
    mtu: u16,
) -> Reply {
    let net = match Tap::of_parts(tap, udp_offloads, queues) {
        Ok(tap) => Net::new(tap, mac, mtu).map_err(|error| Told::other(&error, None)),
        Err(error) => Err(Told::other(&error, None)),
    };
    let plugged = net.and_then(|net| machine.plug_net(net).map_err(Told::from));
    plugged.map_or_else(Reply::Failed, Reply::Plugged)
}
