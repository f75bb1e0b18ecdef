//! The file system device (virtio 1.3, section 5.11): the guest mounts a directory of the
//! host. The file system itself is virtiofsd's, as a library; here are the device, its thread
//! and the door that requests come through.
//!
//! *Containment.* The thread has a root directory, a working directory and a file mode mask of
//! its own, and its root is the exported directory: no name that a guest makes up, `..` and
//! symbolic links included, leads out of it. Bind mounts below it belong to it. Files are
//! created as the user and group that the guest says, with the mode that it says; whether that
//! user may is for the guest to judge.
//!
//! *Sharing.* The host and other guests may change the tree at any time. The guest keeps what
//! it knows of names and attributes for [`CACHE_TIME`], and content until its size or times
//! change or, at the latest, until a changed file is opened again. What the guest writes is in
//! the host's file when `write` returns. Locks are the guest's own: the host doesn't see them.
//!
//! What a guest can make the host allocate: 2 MiB for a request and its answer, one at a time;
//! 2 MiB for what is kept between requests; and one file descriptor and some 300 bytes for each
//! file that it knows or has open, of which there are no more than it is given, than
//! [`MAX_GUEST_FILES`] and than
//! `RLIMIT_NOFILE` leaves room for. Beyond that it gets `ENFILE`; before that, whoever made the
//! device gets an alarm, and can have the guest forget files.
//!
//! A request is worked on to its end: [`VirtioDevice::reset`] waits for it, as long as the
//! host's file system takes.

mod crowd;
mod devtmpfs;
mod export;
mod request;
mod served;
#[cfg(test)]
mod served_tests;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtiofsd::passthrough::credentials::drop_effective_cap;
use virtiofsd::passthrough::{CachePolicy, Config, NegotiationMode, PassthroughFs};
use virtiofsd::server::Server;
use vm_memory::GuestMemoryMmap;

use super::queue::{self, BASIC_FEATURES, DeviceQueue, QueueError};
use super::thread::{DeviceThread, Stop};
use super::{ActivateError, Activation, VirtioDevice, config, own_files};
use crowd::Crowd;
use export::Export;
use request::Door;
pub use served::{SERVED, not_served};

/// The longest tag, in bytes of UTF-8.
pub const MAX_TAG: usize = 36;

/// How long the guest may rely on a name or on attributes without asking again. A build asks
/// for the same files many times in a row; a person, or a program that is told of a change,
/// shall not see what was.
pub const CACHE_TIME: Duration = Duration::from_millis(100);

/// How many files a guest can know or have open at a time.
pub const MAX_GUEST_FILES: u64 = 512 << 10;

/// File descriptors that stay for the rest of the process.
const RESERVED_FILES: u64 = 256;

/// High priority queue and request queue. A request of Linux takes 260 descriptors at most.
const QUEUE_SIZES: [u16; 2] = [128, 512];

/// The device.
pub struct Fs {
    /// `struct virtio_fs_config`: tag and number of request queues.
    config: [u8; MAX_TAG + 4],
    root: Arc<File>,
    files: u64,
    /// How many devices share these files, and the process's descriptors.
    parts: u64,
    alarm: Option<Arc<OwnedFd>>,
    thread: Option<DeviceThread>,
}

impl Fs {
    /// A device that shows the guest the directory `root`, which is opened now, under the name
    /// `tag`.
    ///
    /// Each file that the guest knows takes a file descriptor, so this raises the process'
    /// soft limit on them as far as it may be raised.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the tag is empty, longer than [`MAX_TAG`] or has a NUL in it;
    /// `Unsupported` if the directory is in a file system that isn't [`SERVED`]; or what the host
    /// says when it opens the directory.
    pub fn new(tag: &str, root: &Path) -> io::Result<Fs> {
        if tag.is_empty() || tag.len() > MAX_TAG || tag.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the tag must have 1 to 36 bytes, none of them zero",
            ));
        }
        let mut config = [0; MAX_TAG + 4];
        config[..tag.len()].copy_from_slice(tag.as_bytes());
        config[MAX_TAG..].copy_from_slice(&1u32.to_le_bytes());
        let root = open_directory(root)?;
        if not_served(&root)?.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is in a file system that guests aren't served",
            ));
        }
        raise_file_limit()?;
        // By the time that the guest uses the device there may be no /proc.
        own_files::directory()?;
        devtmpfs::device()?;
        Ok(Fs {
            config,
            root: Arc::new(root),
            files: MAX_GUEST_FILES,
            parts: 1,
            alarm: None,
            thread: None,
        })
    }

    /// The same device for a guest that can know at most `files` files at a time, of all of its
    /// `devices` of this kind. Each has an equal part.
    pub fn with_part_of_files(self, files: u64, devices: u64) -> Fs {
        Fs {
            files: files.min(self.files),
            parts: devices.max(1),
            ..self
        }
    }

    /// The same device, which adds 1 to the eventfd `alarm` when the guest has three quarters of
    /// the files that it can, and now and then when it has more. A guest of Linux forgets those
    /// that it doesn't use when 2 is written to `/proc/sys/vm/drop_caches`
    /// ([kernel document](https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches)).
    pub fn with_alarm(self, alarm: Arc<OwnedFd>) -> Fs {
        let alarm = Some(alarm);
        Fs { alarm, ..self }
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let queues = queue::start_queues(activation)?;
        let host = |source| ActivateError::Host {
            what: "starting the file system device",
            source,
        };
        // The thread's root has no /proc.
        let descriptors = own_files::directory().and_then(File::try_clone);
        let descriptors = descriptors.map_err(host)?;
        let limit = file_limit().map_err(host)?.rlim_cur;
        let limit = limit.saturating_sub(RESERVED_FILES).min(self.files) / self.parts;
        let door = Door::new(&memory).map_err(host)?;
        let root = Arc::clone(&self.root);
        let crowd = Crowd::new(limit, self.alarm.as_deref()).map_err(host)?;
        let work = move |stop: &Stop| {
            let server =
                serve_directory(&root, descriptors, limit, crowd).map_err(Failure::Start)?;
            Worker {
                server,
                door,
                memory,
                queues,
            }
            .run(stop)
        };
        self.thread = Some(DeviceThread::spawn("fs", interrupt, work)?);
        Ok(())
    }

    /// Forgets all that the guest knew and had open.
    fn reset(&mut self) {
        self.thread = None;
    }
}

/// Why the device stopped.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("entering the exported directory: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}

/// Makes the calling thread one that sees nothing but `root`, and a server of it.
fn serve_directory(
    root: &File,
    descriptors: File,
    files: u64,
    crowd: Crowd,
) -> io::Result<Server<Export>> {
    // libcap-ng reads files in /proc when a thread first uses it, so that comes before the
    // change of root.
    drop(drop_effective_cap("FSETID")?);
    // SAFETY: plain calls with valid arguments. The first gives this thread a root, working
    // directory and mask of its own, so that the next ones, and those that virtiofsd changes at
    // work, concern no other thread. The last lets it keep root's rights while it makes a file
    // as another user: the guest, which knows that user's rights, has judged already.
    let entered = unsafe {
        libc::unshare(libc::CLONE_FS) == 0
            && libc::fchdir(root.as_raw_fd()) == 0
            && libc::chroot(c".".as_ptr()) == 0
            && libc::prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP) == 0
    };
    if !entered {
        return Err(io::Error::last_os_error());
    }
    let config = Config {
        root_dir: "/".into(),
        proc_sfd_rawfd: Some(descriptors),
        guest_fd_limit: files,
        // Content may be cached until the file is opened again, see `Export` for when it is kept
        // longer; a change of size or times drops it, too.
        cache_policy: CachePolicy::Auto,
        entry_timeout: CACHE_TIME,
        attr_timeout: CACHE_TIME,
        // It would keep written data back in the guest, and needs a tree that nobody else
        // changes.
        writeback: false,
        // The tree has bind mounts in it, whose inode numbers may be the same.
        announce_submounts: true,
        // File capabilities and access control lists are part of a container's image.
        xattr: true,
        posix_acl: NegotiationMode::Auto,
        // The host clears set-user-id bits on a write, so that the guest needn't ask for them
        // before each.
        killpriv_v2: true,
        // As on the host: O_DIRECT is the file's file system's to grant or refuse.
        allow_direct_io: true,
        ..Config::default()
    };
    // This sets the thread's mask to 0.
    Ok(Server::new(Export::new(PassthroughFs::new(config)?, crowd)))
}

struct Worker {
    server: Server<Export>,
    door: Door,
    memory: Arc<GuestMemoryMmap>,
    queues: [DeviceQueue; 2],
}

impl Worker {
    /// Works until told to stop, or until a queue turns out to be broken.
    fn run(mut self, stop: &Stop) -> Result<(), Failure> {
        let notified = [0, 1].map(|index: usize| self.queues[index].notify().as_raw_fd());
        loop {
            // The first time for what was left when the device was stopped: nobody notifies of it.
            for index in 0..self.queues.len() {
                self.queues[index].acknowledge();
                self.serve(index, stop)?;
            }
            if !stop.wait(&notified).map_err(Failure::Wait)? {
                return Ok(());
            }
        }
    }

    fn serve(&mut self, index: usize, stop: &Stop) -> Result<(), QueueError> {
        let queue = &mut self.queues[index];
        queue.pause_notifications()?;
        while !stop.requested() {
            match queue.pop(&self.memory)? {
                Some(mut chain) => {
                    let written = self.door.serve(&self.server, &mut chain);
                    queue.push(chain.head, written)?;
                    // Whoever waits for this answer shouldn't wait for the next.
                    queue.signal()?;
                }
                None if queue.resume_notifications()? => {}
                None => break,
            }
        }
        Ok(())
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
}

fn file_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the soft limit to the hard one, and the hard one to what a guest can use where the
/// process is allowed to.
fn raise_file_limit() -> io::Result<()> {
    let now = file_limit()?;
    let wanted = now.rlim_max.max(MAX_GUEST_FILES + RESERVED_FILES);
    for limit in [wanted, now.rlim_max] {
        let limits = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        // SAFETY: `limits` is valid for the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limits) } == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}
