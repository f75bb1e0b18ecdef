//! A device's socket, to which a QEMU that was taken over says anything.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::MEMORY_SIZE;
use crate::devices::virtio::vhost_user::{Connection, Memory, Socket};

/// How long the device's thread may take to end once nobody is at the other end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a QEMU says to a device, byte by byte. `memory` makes the machine's memory, a file of 16 MiB.
pub fn vhost_user(said: &[u8], memory: impl FnOnce() -> File) {
    thread_local!(static MEMORY: std::cell::OnceCell<Arc<GuestMemoryMmap>> = Default::default());
    let memory = MEMORY.with(|known| {
        let make = || {
            let offset = Some(FileOffset::new(memory(), 0));
            let range = (GuestAddress(0), MEMORY_SIZE, offset);
            let memory = GuestMemoryMmap::from_ranges_with_files([range]);
            Arc::new(memory.expect("there is memory"))
        };
        Arc::clone(known.get_or_init(make))
    });
    let (ours, mut theirs) = UnixStream::pair().expect("there are sockets");
    let (peer, _kept) = UnixStream::pair().expect("there are sockets");
    let (tell, ended) = mpsc::channel();
    let connection = Connection {
        name: "fuzzed",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: true,
        socket: Socket::Connected(ours),
    };
    let failed = Arc::new(|why: &str| assert!(!why.contains("bug: "), "{why}"));
    let memory = Memory::Known(memory);
    let served = connection.serve(memory, OwnedFd::from(peer), failed, move || {
        // Nobody listens once the other thread has given up.
        let _ = tell.send(());
    });
    served.expect("there are threads");
    // It may have hung up.
    let _ = theirs.set_nonblocking(true);
    let _ = theirs.write(said);
    drop(theirs);
    ended.recv_timeout(PATIENCE).expect("the conversation ends");
}
