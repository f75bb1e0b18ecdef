//! A tap interface of the host, as the other end of a network device: what the host sends to it is
//! read from its files, and the host receives what is written to them
//! (<https://docs.kernel.org/networking/tuntap.html>).

use std::ffi::c_short;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::header;
use crate::devices::virtio::vector::Vector;
use crate::wait::poll_for;

/// How many pairs of queues a device can have.
pub const MAX_QUEUE_PAIRS: usize = 8;

const DEVICE: &str = "/dev/net/tun";

/// The offloads that every kernel since Linux 2.6.27 can be told about, and those of Linux 6.2,
/// which come together (`TUN_F_*`).
const OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_OFFLOADS: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Why a tap can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// An interface can't have this name.
    #[error("{0:?} is no name for an interface: 1 to 15 bytes, no '/', ':', '%' or white space")]
    Name(String),
    /// It can't have that many queues.
    #[error("a tap must have 1 to {MAX_QUEUE_PAIRS} queues, not {0}")]
    Queues(usize),
    /// The host has no taps, or this process may not use them.
    #[error("opening {DEVICE}")]
    Open(#[source] io::Error),
    /// The kernel refuses.
    #[error("{what} tap {name}")]
    Host {
        /// What was being done to it.
        what: &'static str,
        /// The interface.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A tap interface with one or more queues. It disappears with its last file, unless it was made
/// persistent.
pub struct Tap {
    name: String,
    queues: Vec<Arc<TapQueue>>,
    udp_offloads: bool,
}

impl Tap {
    /// Opens the tap `name` in the network namespace of the calling thread, or creates it if there
    /// is none, with `queues` queues. That takes `CAP_NET_ADMIN` there; using it later doesn't. It
    /// is neither up nor has it an address.
    ///
    /// # Errors
    ///
    /// [`TapError`]. `EINVAL` and `EBUSY` mean that there is already an interface with this name
    /// which isn't a tap, has a different kind of queues, or is in use.
    pub fn open(name: &str, queues: usize) -> Result<Tap, TapError> {
        Self::open_queues(name, request(name)?, queues)
    }

    /// Makes a tap as [`Tap::open`] does, with the name `prefix` followed by the first free number.
    ///
    /// # Errors
    ///
    /// As for [`Tap::open`].
    pub fn make(prefix: &str, queues: usize) -> Result<Tap, TapError> {
        let mut request = request(prefix)?;
        // The kernel's own pattern, which the kernel fills in: nobody can take the name in between.
        let pattern = format!("{prefix}%d");
        if pattern.len() >= libc::IFNAMSIZ {
            return Err(TapError::Name(pattern));
        }
        set_name(&mut request, &pattern);
        Self::open_queues(prefix, request, queues)
    }

    fn open_queues(name: &str, mut request: libc::ifreq, queues: usize) -> Result<Tap, TapError> {
        if queues == 0 || queues > MAX_QUEUE_PAIRS {
            return Err(TapError::Queues(queues));
        }
        let opened = (0..queues).map(|_| {
            let file = open_queue(&mut request, queues).map_err(|error| match error {
                Step::Open(source) => TapError::Open(source),
                Step::Set(what, source) => TapError::Host {
                    what,
                    name: name.to_owned(),
                    source,
                },
            })?;
            let queue = TapQueue::new(file).map_err(TapError::Open)?;
            Ok(Arc::new(queue))
        });
        let queues = opened.collect::<Result<_, _>>()?;
        // The kernel has written it there with the first queue.
        let name = name_in(&request);
        let mut tap = Tap {
            name: name.clone(),
            queues,
            udp_offloads: false,
        };
        tap.udp_offloads = tap.set_offloads(OFFLOADS | UDP_OFFLOADS).is_ok();
        tap.set_offloads(0)
            .and_then(|()| tap.use_queues(1))
            .map_err(|source| TapError::Host {
                what: "setting up",
                name,
                source,
            })?;
        Ok(tap)
    }

    /// Makes a tap of the parts that [`Tap::parts`] returned, after it was opened and before it was
    /// used, perhaps in another process.
    pub(crate) fn of_parts(
        name: String,
        udp_offloads: bool,
        queues: Vec<File>,
    ) -> Result<Tap, TapError> {
        if queues.is_empty() || queues.len() > MAX_QUEUE_PAIRS {
            return Err(TapError::Queues(queues.len()));
        }
        let queues = queues.into_iter().enumerate().map(|(index, file)| {
            let queue = TapQueue::new(file).map_err(TapError::Open)?;
            *queue.attached() = index == 0;
            Ok(Arc::new(queue))
        });
        Ok(Tap {
            name,
            queues: queues.collect::<Result<_, _>>()?,
            udp_offloads,
        })
    }

    /// Returns its name, whether it can leave UDP datagrams together, and its queues.
    pub(crate) fn parts(&self) -> (&str, bool, Vec<BorrowedFd<'_>>) {
        let queues = self.queues.iter().map(|queue| queue.file.as_fd());
        (&self.name, self.udp_offloads, queues.collect())
    }

    /// Returns the interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn queues(&self) -> &[Arc<TapQueue>] {
        &self.queues
    }

    /// Returns whether the kernel can leave UDP datagrams together (`TUN_F_USO4`, `TUN_F_USO6`).
    pub(super) fn has_udp_offloads(&self) -> bool {
        self.udp_offloads
    }

    /// Sets what may be read other than whole packets with their checksums: `TUN_F_*`.
    pub(super) fn set_offloads(&self, offloads: u32) -> io::Result<()> {
        // The first queue is always attached.
        let Some(first) = self.queues.first() else {
            return Ok(());
        };
        // SAFETY: the call takes a number.
        check(unsafe {
            libc::ioctl(
                first.file.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                libc::c_ulong::from(offloads),
            )
        })
    }

    /// Returns whether the interface is gone.
    pub(super) fn is_gone(&self) -> bool {
        // The first queue is always attached.
        self.queues.first().is_none_or(|first| first.is_gone())
    }

    /// Has the host use only the first `count` queues.
    pub(super) fn use_queues(&self, count: usize) -> io::Result<()> {
        for (index, queue) in self.queues.iter().enumerate() {
            queue.set_attached(index < count)?;
        }
        Ok(())
    }
}

/// One of a tap's queues.
pub(super) struct TapQueue {
    file: File,
    /// Whether the host uses it. Locked while packets are moved, so that none are moved once it has
    /// been detached.
    attached: Mutex<bool>,
    /// Readable after it has been attached or detached.
    changed: EventFd,
}

impl TapQueue {
    /// Wraps `file`, which must be nonblocking and read and write whole packets.
    pub(super) fn new(file: File) -> io::Result<TapQueue> {
        Ok(TapQueue {
            file,
            attached: Mutex::new(true),
            changed: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn changed(&self) -> &EventFd {
        &self.changed
    }

    /// Returns whether the host uses it. That doesn't change while the guard is held.
    pub(super) fn attached(&self) -> MutexGuard<'_, bool> {
        // It is changed in one step, so it is valid whoever panicked.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches the queue, so that the host uses it, or detaches it.
    pub(super) fn set_attached(&self, wanted: bool) -> io::Result<()> {
        let mut attached = self.attached();
        if *attached == wanted {
            return Ok(());
        }
        let flag = if wanted {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        // SAFETY: all zeroes is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = flag as c_short;
        // SAFETY: `request` is valid for the call.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETQUEUE, &request) })?;
        *attached = wanted;
        // It fails only if the counter is full, and then the event is readable.
        let _ = self.changed.write(1);
        Ok(())
    }

    /// Reads a packet. Returns its length including its header, at most as much as there is room
    /// for; what doesn't fit is lost. `WouldBlock` if there is none.
    pub(super) fn receive(&self, room: &mut Vector<'_>) -> io::Result<usize> {
        room.read(self.file.as_fd())
    }

    /// Writes a packet. `WouldBlock` if the host has no room for it at the moment.
    pub(super) fn send(&self, packet: &mut Vector<'_>) -> io::Result<usize> {
        packet.write(self.file.as_fd())
    }

    /// Returns whether the interface is gone. Must be called with [`Self::attached`] held, since a
    /// detached queue looks the same.
    pub(super) fn is_gone(&self) -> bool {
        let mut polled = poll_for(self.file.as_raw_fd(), 0);
        // SAFETY: `polled` is valid for the call, which doesn't wait.
        let count = unsafe { libc::poll(&mut polled, 1, 0) };
        count > 0 && polled.revents != 0
    }
}

/// Makes a request that names an interface.
fn request(name: &str) -> Result<libc::ifreq, TapError> {
    // What the kernel accepts (`dev_valid_name`), except '%', which it would take for a pattern.
    let valid = !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte > b' ' && byte != 0x7f && !matches!(byte, b'/' | b':' | b'%'));
    if !valid {
        return Err(TapError::Name(name.to_owned()));
    }
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    set_name(&mut request, name);
    Ok(request)
}

/// `name` must be shorter than the field.
fn set_name(request: &mut libc::ifreq, name: &str) {
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
}

fn name_in(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| *byte as u8);
    let name: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&name).into_owned()
}

/// The step that failed in [`open_queue`].
enum Step {
    Open(io::Error),
    Set(&'static str, io::Error),
}

/// Opens one of the `queues` of the tap that the request names, and has the kernel write the name into the
/// request.
fn open_queue(request: &mut libc::ifreq, queues: usize) -> Result<File, Step> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(Step::Open)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = flags as c_short;
    let header_size = header::SIZE as i32;
    // SAFETY: the request and the number are valid for the calls.
    let (made, set) = unsafe {
        let made = check(libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETIFF,
            &raw mut *request,
        ));
        let set = libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header_size);
        (made, check(set))
    };
    made.map_err(|error| Step::Set("opening", error))?;
    set.map_err(|error| Step::Set("setting up", error))?;
    Ok(file)
}

fn check(outcome: i32) -> io::Result<()> {
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_checked() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "tap%d",
            "a\0b",
            "a\n",
            "a-name-with-16by",
        ] {
            let refused = Tap::open(name, 1).err().unwrap();
            assert!(matches!(refused, TapError::Name(_)), "{name:?}: {refused}");
        }
        assert!(request("a-name-of-15byt").is_ok());
        for queues in [0, MAX_QUEUE_PAIRS + 1] {
            let refused = Tap::open("tap0", queues).err().unwrap();
            assert!(matches!(refused, TapError::Queues(_)));
        }
    }
}
