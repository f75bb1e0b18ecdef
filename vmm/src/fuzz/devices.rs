//! Each device, between a hostile driver and what it has of the host.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::requests;
use super::script::{self, Request, nothing};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::console::Console;
use crate::devices::virtio::fs::Fs;
use crate::devices::virtio::net::bare::Bare;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::Machine;
use crate::devices::virtio::vsock::{Ports, Vsock};

/// Runs `script` on the machine that `machine` keeps, made by `new` the first time.
fn drive<D: VirtioDevice, X>(
    machine: &RefCell<Option<(Machine<D>, X)>>,
    new: impl FnOnce() -> (D, X),
    before: impl FnOnce(&mut X),
    script: &[u8],
    served: &[usize],
    request: Request<D>,
) {
    let mut machine = machine.borrow_mut();
    let (machine, more) = match &mut *machine {
        Some(known) => {
            known.0.activate();
            known
        }
        none => {
            let (device, more) = new();
            none.insert((Machine::new(device), more))
        }
    };
    before(more);
    script::run(machine, script, served, request);
}

/// What a guest does to its source of randomness.
pub fn rng(script: &[u8]) {
    thread_local!(static MACHINE: RefCell<Option<(Machine<Rng>, ())>> = RefCell::default());
    MACHINE.with(|machine| drive(machine, || (Rng::new(), ()), |()| (), script, &[0], nothing));
}

/// What a guest does to its balloon.
pub fn balloon(script: &[u8]) {
    thread_local!(static MACHINE: RefCell<Option<(Machine<Balloon>, ())>> = RefCell::default());
    let new = || (Balloon::new(), ());
    MACHINE.with(|machine| drive(machine, new, |()| (), script, &[0, 1, 2], nothing));
}

/// What a guest does to a disk. `image` makes its file, of 4 MiB.
pub fn block(script: &[u8], image: impl FnOnce() -> File) {
    thread_local!(static MACHINE: RefCell<Option<(Machine<Block>, ())>> = RefCell::default());
    let new = || {
        let device = Block::new(image(), "fuzzed", 2).expect("it is a good image");
        (device, ())
    };
    MACHINE.with(|machine| drive(machine, new, |()| (), script, &[0, 1], requests::block));
}

/// What a guest does to its console. `input` makes what it can read.
pub fn console(script: &[u8], input: impl FnOnce() -> File) {
    thread_local!(static MACHINE: RefCell<Option<(Machine<Console>, ())>> = RefCell::default());
    let new = || {
        let null = File::options().write(true).open("/dev/null");
        let null = null.expect("every host has it");
        (Console::new(Some(input()), null), ())
    };
    MACHINE.with(|machine| drive(machine, new, |()| (), script, &[1], nothing));
}

/// What a guest does to its file system, of the directory `root`.
pub fn fs(script: &[u8], root: &Path) {
    thread_local!(static MACHINE: RefCell<Option<(Machine<Fs>, ())>> = RefCell::default());
    let new = || (Fs::new("fuzzed", root).expect("a directory"), ());
    MACHINE.with(|machine| drive(machine, new, |()| (), script, &[0, 1], requests::fs));
}

/// What a guest does to its network interface. A socket is the tap's other end.
pub fn net(script: &[u8]) {
    thread_local!(static MACHINE: RefCell<Option<(Machine<Bare>, File)>> = RefCell::default());
    let exchange = |peer: &mut File| {
        // Empties the socket of what the guest before this one has sent.
        while matches!(peer.read(&mut [0; 4096]), Ok(1..)) {}
        // A full socket is as good.
        let _ = peer.write(&[0x5a; 90]);
    };
    let new = || Bare::new("fuzzed");
    MACHINE.with(|machine| drive(machine, new, exchange, script, &[1], requests::net));
}

/// What a guest does to its sockets. Two ports of the host expect it.
pub fn vsock(script: &[u8]) {
    type Host = (Ports, Vec<UnixStream>);
    thread_local!(static MACHINE: RefCell<Option<(Machine<Vsock>, Host)>> = RefCell::default());
    let new = || {
        let (device, ports) = Vsock::new(3).expect("a guest can have this id");
        (device, (ports, Vec::new()))
    };
    let expect = |(ports, ends): &mut Host| {
        ends.clear();
        for port in [1024, 1025] {
            ports.forget(port);
            let mut end = ports.expect(port).expect("the port is free");
            // A full socket is as good.
            let _ = end.write(b"what the host has to say");
            ends.push(end);
        }
    };
    MACHINE.with(|machine| drive(machine, new, expect, script, &[1], requests::vsock));
}
