//! The thread that listens to QEMU, for one device.

use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use vhost::vhost_user::{BackendReqHandler, Error};
use vm_memory::GuestMemoryMmap;

use super::Backend;
use super::events::Calls;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::thread::with_signals_blocked;

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
    pub(crate) socket: UnixStream,
}

impl Connection {
    /// Serves QEMU in a thread of its own, until QEMU hangs up, which isn't a failure. `ended`
    /// is called when the thread is through and the device has stopped.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub(crate) fn serve(
        self,
        memory: Arc<GuestMemoryMmap>,
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
            let listened = catch_unwind(AssertUnwindSafe(|| listen(backend, socket)));
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
    let mut requests = BackendReqHandler::from_stream(socket, Arc::new(Mutex::new(backend)));
    loop {
        match requests.handle_request() {
            Ok(()) => {}
            // QEMU ended, perhaps in the middle of a message.
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}
