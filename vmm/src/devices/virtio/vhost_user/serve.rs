//! The thread that serves a front end's requests for one device. It has no rights, as the threads of
//! most devices: all that a front end hands over is open.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use super::backend::{Backend, Memory};
use super::events::Calls;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::thread::with_signals_blocked;
use crate::rights::ThreadRights;
use crate::wait::Wait;

/// The protocol's version, in the flags of each message.
pub(super) const VERSION: u32 = 1;

/// Is told why a device, or the conversation with its front end, can't continue.
type Failed = Arc<dyn Fn(&str) + Send + Sync>;

/// A device and the socket through which its front end reaches it.
pub(crate) struct Connection {
    /// For the thread's name.
    pub(crate) name: &'static str,
    pub(crate) device: Box<dyn VirtioDevice>,
    /// How many of the device's queues the front end hands over, counted from the first.
    pub(crate) handed_over: usize,
    /// How many of those the driver must set up before the device can work.
    pub(crate) needed: usize,
    /// Whether the front end asks for the device's configuration space.
    pub(crate) gives_config: bool,
    pub(crate) socket: Socket,
}

/// A device's socket.
pub(crate) enum Socket {
    /// The front end has the other end.
    Connected(UnixStream),
    /// QEMU will connect to it.
    Listening(UnixListener),
}

/// What ends the wait for a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Connected,
    Ended,
}

impl Socket {
    /// Returns the connection; `None` if `peer` becomes readable first, since nobody else can
    /// connect.
    fn connection(self, peer: &OwnedFd) -> io::Result<Option<UnixStream>> {
        let listener = match self {
            Socket::Connected(connection) => return Ok(Some(connection)),
            Socket::Listening(listener) => listener,
        };
        let mut wait = Wait::with_capacity(2);
        wait.readable(Event::Connected, &listener);
        wait.readable(Event::Ended, peer);
        if !wait.wait()?.has(Event::Connected) {
            return Ok(None);
        }
        listener.accept().map(|(connection, _)| Some(connection))
    }
}

impl Connection {
    /// Serves the front end in a thread of its own until that hangs up, which isn't a failure; `peer`
    /// is readable once it has ended. `ended` is called when the thread has finished and the device
    /// has stopped.
    ///
    /// # Errors
    ///
    /// If no thread can be created.
    pub(crate) fn serve(
        self,
        memory: Memory,
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
            if let Err(error) = ThreadRights::NONE.keep() {
                failed(&format!("giving its thread's rights up: {error}"));
                return ended();
            }
            let backend = Backend::new(device, handed_over, needed, gives_config, memory, calls);
            let listened = catch_unwind(AssertUnwindSafe(|| match socket.connection(&peer) {
                Ok(Some(socket)) => listen(backend, socket),
                Ok(None) => Ok(()),
                Err(error) => Err(Error::SocketConnect(error)),
            }));
            match listened {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed(&format!(
                    "its front end broke the vhost-user protocol: {error}"
                )),
                Err(_) => failed("bug: the vhost-user thread panicked"),
            }
            ended();
        };
        let builder = std::thread::Builder::new().name(format!("vhost-{name}"));
        with_signals_blocked(|| builder.spawn(body)).map(drop)
    }
}

/// Serves requests until the front end hangs up.
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
            // The front end has ended, possibly in the middle of a message.
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Serves a request to enable a ring before features are negotiated, if that is the next one.
/// QEMU's network devices begin like this; the protocol allows it only after features, and the
/// crate insists on that. Since version 8.2 QEMU waits for an answer.
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
    // QEMU may have ended in the meantime.
    Some(served.and(told.map_err(Error::SocketBroken)))
}
