//! The device: its configuration, and the thread that serves its queues from within the exported
//! directory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtiofsd::passthrough::{CachePolicy, Config, NegotiationMode, PassthroughFs};
use virtiofsd::server::Server;
use vm_memory::GuestMemoryMmap;

use super::crowd::Crowd;
use super::devtmpfs;
use super::export::Export;
use super::guard::Guard;
use super::policy::Policy;
use super::request::Door;
use super::served::not_served;
use super::thread::{Reach, Run, ServerThread};
use crate::devices::virtio::queue::{self, BASIC_FEATURES, DeviceQueue, QueueError};
use crate::devices::virtio::thread::Stop;
use crate::devices::virtio::throttle::{Brake, Throttle};
use crate::devices::virtio::vhost_user::RemoteDevice;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice, config, own_files};

/// The longest tag, in bytes of UTF-8.
pub const MAX_TAG: usize = 36;

/// How long the guest may use a name or attributes without asking again. A build asks for the same
/// files many times in a row; a person, or a program that is notified of a change, must not see the
/// old state.
pub const CACHE_TIME: Duration = Duration::from_millis(100);

/// How many files a guest can know or have open at a time.
pub const MAX_GUEST_FILES: u64 = 512 << 10;

/// File descriptors reserved for the rest of the process.
pub(super) const RESERVED_FILES: u64 = 1024;

/// The least that `RLIMIT_NOFILE` must allow. If only few files are allowed, a guest gets the error
/// that there are too many in the middle of a directory, which many programs take for its end.
const LEAST_FILES: u64 = 3 * 1024;

/// High priority queue and request queue. A request of Linux takes at most 260 descriptors.
const QUEUE_SIZES: [u16; 2] = [128, 512];

/// The file system device.
pub struct Fs {
    config: FsConfig,
    files: u64,
    /// How many devices share these files and the process's descriptors.
    parts: u64,
    alarm: Option<Arc<OwnedFd>>,
    policy: Arc<Policy>,
    throttle: Throttle,
    /// What the thread does for the driver.
    run: Option<Run>,
    thread: ServerThread,
}

/// `struct virtio_fs_config`: tag and number of request queues.
struct FsConfig([u8; MAX_TAG + 4]);

impl FsConfig {
    fn new(tag: &str) -> io::Result<FsConfig> {
        if tag.is_empty() || tag.len() > MAX_TAG || tag.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the tag must have 1 to 36 bytes, none of them zero",
            ));
        }
        let mut config = [0; MAX_TAG + 4];
        config[..tag.len()].copy_from_slice(tag.as_bytes());
        config[MAX_TAG..].copy_from_slice(&1u32.to_le_bytes());
        Ok(FsConfig(config))
    }
}

/// Makes the front end of a device named `tag`, at the other end of whose socket an [`Fs`] is.
///
/// # Errors
///
/// As [`Fs::new`], of the tag.
pub(super) fn remote(tag: &str, socket: UnixStream) -> io::Result<RemoteDevice> {
    let config = FsConfig::new(tag)?;
    Ok(RemoteDevice::new(
        VIRTIO_ID_FS,
        BASIC_FEATURES,
        &QUEUE_SIZES,
        &config.0,
        socket,
    ))
}

impl Fs {
    /// Makes a device that shows the guest the directory `root`, which is opened by this call,
    /// under the name `tag`.
    ///
    /// Each file that the guest knows takes a file descriptor, so this raises the process's soft
    /// limit on them as far as allowed.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the tag is empty, longer than [`MAX_TAG`] or contains a NUL; `Unsupported`
    /// if the directory is in a file system that isn't [`SERVED`](super::SERVED); or the host's error when it
    /// opens the directory.
    pub fn new(tag: &str, root: &Path) -> io::Result<Fs> {
        Self::of_reach(tag, root, Reach::Inside)
    }

    /// Does the same with a directory whose file systems reach that far.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of_reach(tag: &str, root: &Path, reach: Reach) -> io::Result<Fs> {
        let config = FsConfig::new(tag)?;
        let root = open_directory(root)?;
        if not_served(&root)?.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is in a file system that guests aren't served",
            ));
        }
        raise_file_limit()?;
        // By the time the guest uses the device there may be no /proc.
        own_files::directory()?;
        devtmpfs::device()?;
        Ok(Fs {
            config,
            files: MAX_GUEST_FILES,
            parts: 1,
            alarm: None,
            policy: Arc::new(Policy::new(HashMap::new())),
            throttle: Throttle::default(),
            run: None,
            thread: ServerThread::start(Arc::new(root), reach)?,
        })
    }

    /// Limits the guest to at most `files` known or open files at a time, over all of its `devices`
    /// of this kind. Each has an equal part.
    pub fn with_part_of_files(self, files: u64, devices: u64) -> Fs {
        Fs {
            files: files.min(self.files),
            parts: devices.max(1),
            ..self
        }
    }

    /// Makes the device add 1 to the eventfd `alarm` when the guest has three quarters of its
    /// files, and again now and then when it has more. A Linux guest forgets those that it doesn't
    /// use when 2 is written to `/proc/sys/vm/drop_caches` ([kernel
    /// document](https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches)).
    pub fn with_alarm(self, alarm: Arc<OwnedFd>) -> Fs {
        let alarm = Some(alarm);
        Fs { alarm, ..self }
    }

    /// Makes the device refuse what `policy` rules out. Without one, a guest may do what root may.
    pub fn with_policy(self, policy: Arc<Policy>) -> Fs {
        Fs { policy, ..self }
    }

    /// Limits what it does for its guest. With a limit the guest copies files by reading and
    /// writing: the host doesn't copy for it, which would go past the limit.
    pub fn with_throttle(self, throttle: Throttle) -> Fs {
        Fs { throttle, ..self }
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
        config::read(&self.config.0, offset, data);
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
        // There is no /proc in the thread's root.
        let descriptors = own_files::directory().and_then(File::try_clone);
        let descriptors = descriptors.map_err(host)?;
        let limit = file_limit().map_err(host)?.rlim_cur;
        let limit = limit.saturating_sub(RESERVED_FILES).min(self.files) / self.parts;
        let mut door = Door::new(&memory).map_err(host)?;
        if self.throttle.is_limited() {
            door = door.without_copies();
        }
        let brake = self.throttle.brake().map_err(host)?;
        let crowd = Crowd::new(limit, self.alarm.as_deref()).map_err(host)?;
        let policy = Arc::clone(&self.policy);
        let work = move |stop: &Stop| {
            let server = serve_root(descriptors, limit, crowd, policy).map_err(Failure::Start)?;
            Worker {
                server,
                door,
                brake,
                memory,
                queues,
            }
            .run(stop)
        };
        self.run = Some(self.thread.run(interrupt, work)?);
        Ok(())
    }

    /// Forgets everything that the guest knew and had open.
    fn reset(&mut self) {
        self.run = None;
    }
}

/// Why the device stopped.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("serving the exported directory: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}

/// Makes the calling thread, which has the exported directory as its root, a server of it.
fn serve_root(
    descriptors: File,
    files: u64,
    crowd: Crowd,
    policy: Arc<Policy>,
) -> io::Result<Server<Guard>> {
    let config = Config {
        root_dir: "/".into(),
        proc_sfd_rawfd: Some(descriptors),
        guest_fd_limit: files,
        // Content may be cached until the file is opened again; see `Export` for when it is kept
        // longer. A change of size or times drops it, too.
        cache_policy: CachePolicy::Auto,
        entry_timeout: CACHE_TIME,
        attr_timeout: CACHE_TIME,
        // This would hold back written data in the guest, and requires a tree that nobody else
        // changes.
        writeback: false,
        // The tree contains bind mounts, whose inode numbers may be the same.
        announce_submounts: true,
        // File capabilities and access control lists are part of a container's image.
        xattr: true,
        posix_acl: NegotiationMode::Auto,
        // The host clears set-user-id bits on a write, so the guest needn't request that before
        // each write.
        killpriv_v2: true,
        // As on the host: the file's file system accepts or refuses O_DIRECT.
        allow_direct_io: true,
        ..Config::default()
    };
    // This sets the thread's mask to 0.
    let inner = PassthroughFs::new(config)?;
    Ok(Server::new(Guard::new(Export::new(inner, crowd), policy)))
}

struct Worker {
    server: Server<Guard>,
    door: Door,
    brake: Brake,
    memory: Arc<GuestMemoryMmap>,
    queues: [DeviceQueue; 2],
}

impl Worker {
    /// Works until told to stop, or until a queue turns out to be broken.
    fn run(mut self, stop: &Stop) -> Result<(), Failure> {
        let notified = [0, 1].map(|index: usize| self.queues[index].notify().as_raw_fd());
        loop {
            // The first time, for what was left when the device was stopped: nobody notifies of it.
            for index in 0..self.queues.len() {
                self.queues[index].acknowledge();
                self.serve(index, stop)?;
            }
            if !stop.wait(&notified).map_err(Failure::Wait)? {
                return Ok(());
            }
        }
    }

    fn serve(&mut self, index: usize, stop: &Stop) -> Result<(), Failure> {
        let queue = &mut self.queues[index];
        queue.pause_notifications()?;
        while self.brake.wait(stop).map_err(Failure::Wait)? {
            match queue.pop(&self.memory)? {
                Some(mut chain) => {
                    let asked = chain.readable.len();
                    let written = self.door.serve(&self.server, &mut chain);
                    self.brake.charge(asked as u64 + written as u64);
                    queue.push(chain.head, written)?;
                    // Whoever waits for this answer shouldn't have to wait for the next one.
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

/// Raises the soft limit to the hard one, and the hard one to what a guest can use if the process
/// is allowed to. Fails if the result is too low.
pub(super) fn raise_file_limit() -> io::Result<()> {
    set_highest_file_limit()?;
    match file_limit()?.rlim_cur {
        LEAST_FILES.. => Ok(()),
        low => Err(io::Error::other(format!(
            "RLIMIT_NOFILE lets this process have {low} open files, and a machine needs \
             {LEAST_FILES}"
        ))),
    }
}

fn set_highest_file_limit() -> io::Result<()> {
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
