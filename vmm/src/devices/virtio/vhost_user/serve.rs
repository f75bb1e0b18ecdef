//! The thread that listens to QEMU, for one device.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};
use vm_memory::GuestMemoryMmap;

use super::Backend;
use super::events::Calls;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::thread::{poll, poll_for, with_signals_blocked};

/// The protocol's version, in the flags of each message.
const VERSION: u32 = 1;

/// Told why a device, or the conversation with QEMU about it, can't go on.
type Failed = Arc<dyn Fn(&str) + Send + Sync>;

/// A device and the socket that QEMU reaches it by.
pub(crate) struct Connection {
    /// For the thread's name.
    pub(crate) name: &'static str,
    pub(crate) device: Box<dyn VirtioDevice>,
    /// How many of the device's queues QEMU hands over, from the first.
    pub(crate) handed_over: usize,
    /// How many of those the driver must set up before the device can work.
    pub(crate) needed: usize,
    /// Whether QEMU asks for the device's configuration space.
    pub(crate) gives_config: bool,
    pub(crate) socket: Socket,
}

/// A device's socket.
pub(crate) enum Socket {
    /// QEMU has the other end.
    Connected(UnixStream),
    /// QEMU will connect to it.
    Listening(UnixListener),
}

impl Socket {
    /// The connection; none if `peer` becomes readable first. Nobody else can connect then.
    fn connection(self, peer: &OwnedFd) -> io::Result<Option<UnixStream>> {
        let listener = match self {
            Socket::Connected(connection) => return Ok(Some(connection)),
            Socket::Listening(listener) => listener,
        };
        let mut polled =
            [&listener as &dyn AsRawFd, peer].map(|file| poll_for(file.as_raw_fd(), libc::POLLIN));
        poll(&mut polled)?;
        match polled[0].revents {
            0 => Ok(None),
            _ => listener.accept().map(|(connection, _)| Some(connection)),
        }
    }
}

impl Connection {
    /// Serves QEMU in a thread of its own, until QEMU hangs up, which isn't a failure; `peer` is
    /// readable once it has ended. `ended` is called when the thread is through and the device has stopped.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub(crate) fn serve(
        self,
        memory: Arc<GuestMemoryMmap>,
        peer: OwnedFd,
        failed: Failed,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let Connection {
            name,
            device,
            handed_over,
            needed,
            gives_config,
            socket,
        } = self;
        let report = Arc::clone(&failed);
        let queues = device.queue_sizes().len();
        let calls = Arc::new(Calls::new(queues, Box::new(move |why| report(why))));
        let body = move || {
            let backend = Backend::new(device, handed_over, needed, gives_config, memory, calls);
            let listened = catch_unwind(AssertUnwindSafe(|| match socket.connection(&peer) {
                Ok(Some(socket)) => listen(backend, socket),
                Ok(None) => Ok(()),
                Err(error) => Err(Error::SocketConnect(error)),
            }));
            match listened {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed(&format!("QEMU broke the vhost-user protocol: {error}")),
                Err(_) => failed("bug: the vhost-user thread panicked"),
            }
            ended();
        };
        let builder = std::thread::Builder::new().name(format!("vhost-{name}"));
        with_signals_blocked(|| builder.spawn(body)).map(drop)
    }
}

/// Serves requests until QEMU hangs up.
fn listen(backend: Backend, socket: UnixStream) -> Result<(), Error> {
    let early = socket.try_clone().map_err(Error::SocketError)?;
    let backend = Arc::new(Mutex::new(backend));
    let mut requests = BackendReqHandler::from_stream(socket, Arc::clone(&backend));
    loop {
        let served = match early_enable(&early, &backend) {
            Some(served) => served,
            None => requests.handle_request(),
        };
        match served {
            Ok(()) => {}
            // QEMU ended, perhaps in the middle of a message.
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Serves a request to enable a ring before features are agreed on, if that is the next. QEMU's
/// network devices begin so; the protocol has it that way only after features, and the crate
/// insists. Since version 8.2 QEMU waits for an answer.
fn early_enable(mut socket: &UnixStream, backend: &Mutex<Backend>) -> Option<Result<(), Error>> {
    let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
    if backend.features.is_some() {
        return None;
    }
    // Request, flags and size; a ring's index, and 1 or 0.
    let mut bytes = [0; 20];
    // SAFETY: the pointer and the length are those of an array.
    let count = unsafe {
        let to = bytes.as_mut_ptr().cast();
        libc::recv(socket.as_raw_fd(), to, bytes.len(), libc::MSG_PEEK)
    };
    let words = bytes.as_chunks().0;
    let [request, flags, size, index, enable] = *words else {
        return None;
    };
    let [request, flags, size, index, enable] =
        [request, flags, size, index, enable].map(u32::from_ne_bytes);
    let expected = (FrontendReq::SET_VRING_ENABLE as u32, 8);
    if count != bytes.len() as isize || (request, size) != expected || enable > 1 {
        return None;
    }
    let taken = socket.read_exact(&mut bytes).map_err(Error::SocketError);
    let served = taken.and_then(|()| backend.set_vring_enable(index, enable == 1));
    if flags & VhostUserHeaderFlag::NEED_REPLY.bits() == 0 {
        return Some(served);
    }
    let failed = u32::from(served.is_err());
    let reply = VERSION | VhostUserHeaderFlag::REPLY.bits();
    let answer = [request, reply, size, failed, 0].map(u32::to_ne_bytes);
    let told = socket.write_all(answer.as_flattened());
    // QEMU may have ended meanwhile.
    Some(served.and(told.map_err(Error::SocketBroken)))
}
