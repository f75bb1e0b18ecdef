//! A file server's socket, to which a monitor or a QEMU that was taken over says anything, and shows
//! any file as the machine's memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::script::Script;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vhost_user::{Connection, Memory, Socket};

/// How long the device's thread may take to end once nobody is at the other end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the device may take to read a message, and an answer may wait to be read.
const TURN: Duration = Duration::from_millis(100);

/// The requests there are, and a few that there aren't (`VHOST_USER_*`).
const REQUESTS: u8 = 48;

/// `VHOST_USER_SET_MEM_TABLE`.
const SET_MEM_TABLE: u32 = 5;

/// The protocol's version, in a message's flags.
const VERSION: u32 = 1;

/// More regions, and files, than a table may have.
const MOST: u8 = 10;

/// Most bytes of a message that isn't a table.
const LONGEST: u16 = 512;

/// What such a front end says to a device, and the files that go with it: `files` makes those that it
/// has.
pub fn shown(script: &[u8], files: impl FnOnce() -> Vec<File>) {
    thread_local!(static FILES: std::cell::OnceCell<Vec<File>> = Default::default());
    FILES.with(|known| converse(&mut Script::new(script), known.get_or_init(files)));
}

fn converse(script: &mut Script<'_>, files: &[File]) {
    let (ours, theirs) = UnixStream::pair().expect("there are sockets");
    let (peer, _kept) = UnixStream::pair().expect("there are sockets");
    let (tell, ended) = mpsc::channel();
    let connection = Connection {
        name: "fuzzed",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: false,
        socket: Socket::Connected(ours),
    };
    let failed = Arc::new(|why: &str| assert!(!why.contains("bug: "), "{why}"));
    let served = connection.serve(Memory::Shown, OwnedFd::from(peer), failed, move || {
        // Nobody listens once the other thread has given up.
        let _ = tell.send(());
    });
    served.expect("there are threads");
    theirs
        .set_write_timeout(Some(TURN))
        .expect("it can have one");
    while !script.is_over() {
        let (request, body) = message(script);
        let count = usize::from(script.byte() % MOST);
        let with =
            (0..count).filter_map(|_| files.get(usize::from(script.byte()) % files.len().max(1)));
        let with: Vec<RawFd> = with.map(AsRawFd::as_raw_fd).collect();
        let header = [request, VERSION, body.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        // It may have hung up.
        if send(&theirs, &[&header, &body], &with).is_err() {
            break;
        }
    }
    drop(theirs);
    ended.recv_timeout(PATIENCE).expect("the conversation ends");
}

/// Returns a request and what it is about. Every other one is a table of memory, most of whose numbers
/// are whole pages below 256 MiB.
fn message(script: &mut Script<'_>) -> (u32, Vec<u8>) {
    let kind = script.byte();
    if kind & 1 == 0 {
        let length = script.half() % LONGEST;
        let body = script.bytes(length.into()).to_vec();
        return (u32::from(kind >> 1) % u32::from(REQUESTS), body);
    }
    let regions = script.byte() % MOST;
    let mut body = Vec::new();
    body.extend(u32::from(regions).to_le_bytes());
    body.extend([0; 4]);
    for _ in 0..regions {
        let odd = script.byte();
        // Where it is in the guest, how long it is, where the front end has it, and where in the file
        // it begins.
        for number in 0..4 {
            let value = match odd >> number & 1 {
                0 => u64::from(script.half()) << 12,
                _ => script.long(),
            };
            body.extend(value.to_le_bytes());
        }
    }
    (SET_MEM_TABLE, body)
}

fn send(socket: &UnixStream, parts: &[&[u8]], files: &[RawFd]) -> io::Result<()> {
    let sent = socket.send_with_fds(parts, files);
    sent.map(drop)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}
