//! The thread that serves the exported directory.
//!
//! It is made with the device, not when the driver activates it: whoever carries that out has no
//! rights to give. It confines itself to the directory, keeps the rights that serving files takes,
//! and then waits for a driver; for each it does one piece of work, with everything that belongs
//! to it.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Builder, JoinHandle};

use capng::{Action, Set, Type};
use virtiofsd::passthrough::credentials::drop_effective_cap;

use crate::devices::virtio::thread::{self, Stop, with_signals_blocked};
use crate::devices::virtio::{ActivateError, Interrupt};
use crate::landlock::{self, Scope};
use crate::rights::ThreadRights;

const NAME: &str = "fs";

/// What the thread keeps. A guest's users own what they make (`CAP_SETUID`, `CAP_SETGID`), and
/// what they may do with it the guest has decided (`CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_CHOWN`,
/// `CAP_FSETID`); what is left of the rest is for the [policy](super::policy) to decide: devices
/// and whiteouts of overlays (`CAP_MKNOD`), files' capabilities (`CAP_SETFCAP`), `trusted.*` and
/// `security.*` (`CAP_SYS_ADMIN`, as long as a process that has it can be started in the container).
///
/// Not among them: `CAP_DAC_READ_SEARCH`, which opens files by their handles, outside the directory
/// too; `CAP_SYS_RESOURCE`, which lets what is written exceed quotas.
const SERVING: [u8; 9] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    21, // CAP_SYS_ADMIN
    27, // CAP_MKNOD
    31, // CAP_SETFCAP
];

/// What confining itself takes besides: `CAP_SETPCAP` and `CAP_SYS_CHROOT`.
const CONFINING: [(u8, &str); 2] = [(8, "SETPCAP"), (18, "SYS_CHROOT")];

/// How much stack it has; untouched pages cost nothing.
const STACK_SIZE: usize = 512 << 10;

type Work = Box<dyn FnOnce() + Send>;

/// Where the file systems of a directory open files for whoever opens one of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere else, or with rights of their own.
    Inside,
    /// Anywhere on the host, and the kernel takes that for something which its caller does: so Landlock
    /// mustn't keep the caller to the directory.
    Outside,
}

/// The thread. Dropping it ends it, once it has no more to do.
pub(super) struct ServerThread {
    works: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// Work that the thread does; dropping it stops it and waits for its end.
pub(super) struct Run {
    stop: Stop,
    /// Hung up when it has ended.
    ended: Receiver<()>,
}

impl ServerThread {
    /// Makes the thread, which has the directory `root` as its root from then on, and reaches nothing
    /// else.
    pub(super) fn start(root: Arc<File>, reach: Reach) -> io::Result<ServerThread> {
        let (works, given) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        let body = move || {
            let entered = confine(&root, reach);
            let is_confined = entered.is_ok();
            // Whoever made the thread waits for this.
            let _ = tell.send(entered);
            if is_confined {
                given.into_iter().for_each(|work| work());
            }
        };
        let builder = Builder::new().name(NAME.into()).stack_size(STACK_SIZE);
        let thread = with_signals_blocked(|| builder.spawn(body))?;
        let thread = ServerThread {
            works: Some(works),
            thread: Some(thread),
        };
        let gone = || io::Error::other("its thread has ended");
        told.recv().map_err(|_| gone())??;
        Ok(thread)
    }

    /// Does `work` in the thread, as [`DeviceThread`](thread::DeviceThread) would. What it did
    /// before must have ended.
    pub(super) fn run<E: Display>(
        &self,
        interrupt: Arc<dyn Interrupt>,
        work: impl FnOnce(&Stop) -> Result<(), E> + Send + 'static,
    ) -> Result<Run, ActivateError> {
        let host = |source| ActivateError::Host {
            what: "starting the file system device",
            source,
        };
        let stop = Stop::new().map_err(host)?;
        let theirs = stop.try_clone().map_err(host)?;
        let (running, ended) = mpsc::channel::<()>();
        let work = Box::new(move || {
            thread::run(NAME, &*interrupt, || work(&theirs));
            drop(running);
        });
        let gone = |_| host(io::Error::other("its thread has ended"));
        let works = self.works.as_ref();
        works
            .map_or(Ok(()), |works| works.send(work))
            .map_err(gone)?;
        Ok(Run { stop, ended })
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        self.works = None;
        if let Some(thread) = self.thread.take() {
            // Panics of its work have been reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.request();
        // Nothing is ever sent.
        let _ = self.ended.recv();
    }
}

/// Gives the calling thread the root `root`, and leaves it no rights but those to serve it.
fn confine(root: &File, reach: Reach) -> io::Result<()> {
    let needed: Vec<u8> = SERVING
        .into_iter()
        .chain(CONFINING.map(|(number, _)| number))
        .collect();
    ThreadRights::of(&needed).keep()?;
    // libcap-ng reads files in /proc when a thread first uses it, so this comes before the change
    // of root.
    drop(drop_effective_cap("FSETID")?);
    // SAFETY: plain calls with valid arguments. The first gives this thread its own root, working
    // directory and mask, so that the next ones, and those that virtiofsd later changes, concern no
    // other thread. The last lets it keep root's rights while it creates a file as another user:
    // the guest, which knows that user's rights, has already decided.
    let entered = unsafe {
        libc::unshare(libc::CLONE_FS) == 0
            && libc::fchdir(root.as_raw_fd()) == 0
            && libc::chroot(c".".as_ptr()) == 0
            && libc::prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP) == 0
    };
    if !entered {
        return Err(io::Error::last_os_error());
    }
    // By way of libcap-ng, which virtiofsd uses: it sets what it remembers a thread to have.
    let names = CONFINING.map(|(_, name)| name).to_vec();
    capng::updatev(Action::DROP, Type::PERMITTED | Type::EFFECTIVE, names)
        .and_then(|()| capng::apply(Set::CAPS))
        .map_err(|_| io::Error::last_os_error())?;
    match reach {
        Reach::Inside => landlock::keep_to(root.as_fd(), Scope::Nothing),
        Reach::Outside => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::devices::virtio::testing::Recorder;

    #[test]
    #[ignore = "needs root"]
    fn it_keeps_what_serving_takes_and_nothing_else() {
        // SAFETY: geteuid() always succeeds.
        if unsafe { libc::geteuid() } != 0 {
            panic!("skipped: it needs root");
        }
        let directory = tempfile::tempdir().unwrap();
        let root = Arc::new(File::open(directory.path()).unwrap());
        let thread = ServerThread::start(root, Reach::Inside).unwrap();
        let interrupt: Arc<Recorder> = Arc::default();
        let (tell, told) = mpsc::channel();
        let run = thread.run(Arc::clone(&interrupt) as _, move |_| {
            drop(drop_effective_cap("FSETID").unwrap());
            // SAFETY: the call takes nothing.
            tell.send(unsafe { libc::gettid() }).unwrap();
            Ok::<_, Infallible>(())
        });
        let task = format!("/proc/self/task/{}/status", told.recv().unwrap());
        let status = std::fs::read_to_string(task).unwrap();
        drop(run);
        assert_eq!(interrupt.failure(), None);
        let kept = SERVING.iter().fold(0_u64, |set, number| set | 1 << number);
        for (set, value) in [
            ("Inh", 0),
            ("Prm", kept),
            ("Eff", kept),
            ("Amb", 0),
            ("Bnd", 0),
        ] {
            let line = format!("Cap{set}:\t{value:016x}\n");
            assert!(status.contains(&line), "{line} {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
}
