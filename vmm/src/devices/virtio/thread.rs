//! The thread of a device.
//!
//! Each active device works on its queues in a thread of its own: how long that takes is up to the
//! guest, and one device must not delay another. Device threads have no rights (what they work with
//! is open, and what a device needs rights for is done when it is made) and take no signals (the
//! process's signals are for its main thread). They end by themselves only when the device can't
//! continue, which the driver is told.

use std::any::Any;
use std::fmt::Display;
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::queue::QueueError;
use super::{ActivateError, Interrupt};
use crate::rights::ThreadRights;
use crate::thread_filter::ThreadFilter;
use crate::wait::Wait;

/// Device code keeps little on the stack; untouched pages cost nothing.
const STACK_SIZE: usize = 512 << 10;

/// Why a device that needs only its queues and the host can't continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// A running thread; dropping it stops it and waits for its end.
pub(crate) struct DeviceThread {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

/// Tells a device's thread that it must end.
pub(crate) struct Stop {
    event: EventFd,
    requested: Arc<AtomicBool>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Stop> {
        Ok(Stop {
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            requested: Arc::default(),
        })
    }

    pub(super) fn try_clone(&self) -> io::Result<Stop> {
        Ok(Stop {
            event: self.event.try_clone()?,
            requested: Arc::clone(&self.requested),
        })
    }

    pub(super) fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // It fails only if the counter is full, and then the event is readable.
        let _ = self.event.write(1);
    }

    /// Returns what is readable once the thread must end. It must not be read.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Waits until one of `files` is readable; returns false if the thread must end instead.
    pub(crate) fn wait(&self, files: &[RawFd]) -> io::Result<bool> {
        let mut wait = Wait::with_capacity(1 + files.len());
        wait.readable((), &self.event);
        for file in files {
            wait.readable((), file);
        }
        wait.wait()?;
        Ok(!self.requested())
    }

    /// Returns whether the thread must end: to be checked between pieces of work, so that a queue
    /// that is never empty can't keep it running.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

impl DeviceThread {
    /// Starts `work`, which returns soon after it is told to stop, or with the reason why the
    /// device can't continue; [`Interrupt::fail`] then gets it. A panic counts as a reason.
    ///
    /// # Errors
    ///
    /// [`ActivateError::Host`] if the host has no more threads or file descriptors.
    pub(crate) fn spawn<E: Display>(
        name: &str,
        interrupt: Arc<dyn Interrupt>,
        work: impl FnOnce(&Stop) -> Result<(), E> + Send + 'static,
    ) -> Result<DeviceThread, ActivateError> {
        let host = |source| ActivateError::Host {
            what: "starting the device's thread",
            source,
        };
        let stop = Stop::new().map_err(host)?;
        let theirs = stop.try_clone().map_err(host)?;
        let title = name.to_owned();
        let body = move || {
            run(&title, &*interrupt, || {
                ThreadRights::NONE
                    .keep()
                    .and_then(|()| ThreadFilter::Device.narrow())
                    .map_err(|error| format!("giving its thread's rights up: {error}"))?;
                work(&theirs).map_err(|error| error.to_string())
            });
        };
        let builder = Builder::new().name(name.to_owned()).stack_size(STACK_SIZE);
        // The mask is inherited, so that no signal arrives before the thread could set it.
        let thread = with_signals_blocked(|| builder.spawn(body)).map_err(host)?;
        Ok(DeviceThread {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            // A panic has already been reported.
            let _ = thread.join();
        }
    }
}

/// Does `work` of the device `name`; if it fails or panics, the driver is told.
pub(super) fn run<E: Display>(
    name: &str,
    interrupt: &dyn Interrupt,
    work: impl FnOnce() -> Result<(), E>,
) {
    let why = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("bug: {}", panic_message(panic.as_ref())),
    };
    interrupt.fail(&format!("{name}: {why}"));
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic")
}

pub(crate) fn with_signals_blocked<T>(action: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are valid for the calls, which touch nothing else, and the calling thread's
    // mask is restored afterwards.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = action();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::mpsc;

    use super::*;
    use crate::devices::virtio::testing::{Recorder, TIMEOUT};

    fn spawn<E: Display>(
        interrupt: &Arc<Recorder>,
        work: impl FnOnce(&Stop) -> Result<(), E> + Send + 'static,
    ) -> DeviceThread {
        let interrupt = Arc::clone(interrupt) as Arc<dyn Interrupt>;
        DeviceThread::spawn("device", interrupt, work).unwrap()
    }

    #[test]
    fn a_thread_ends_when_it_is_dropped() {
        let interrupt = Arc::default();
        let (tell, told) = mpsc::channel();
        let thread = spawn(&interrupt, move |stop| {
            while stop.wait(&[]).unwrap() {}
            tell.send(()).unwrap();
            Ok::<_, Infallible>(())
        });
        assert!(told.try_recv().is_err());
        drop(thread);
        told.try_recv().unwrap();
        assert_eq!(interrupt.failure(), None);
    }

    #[test]
    fn failures_and_panics_are_reported() {
        let interrupt = Arc::default();
        let _failed = spawn(&interrupt, |_| Err("the queue is broken"));
        assert_eq!(interrupt.wait_for_failure(), "device: the queue is broken");
        let interrupt = Arc::default();
        let _panicked = spawn(&interrupt, |_| -> Result<(), Infallible> {
            panic!("{} is wrong", 1)
        });
        assert_eq!(interrupt.wait_for_failure(), "device: bug: 1 is wrong");
    }

    #[test]
    fn threads_have_no_rights() {
        let interrupt = Arc::default();
        let (tell, told) = mpsc::channel();
        let _thread = spawn(&interrupt, move |_| {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            tell.send(status).unwrap();
            Ok::<_, Infallible>(())
        });
        let status = told.recv_timeout(TIMEOUT).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(
                status.contains(&format!("{set}:\t0000000000000000\n")),
                "{status}"
            );
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }

    #[test]
    fn threads_take_no_signals() {
        let interrupt = Arc::default();
        let (tell, told) = mpsc::channel();
        let masks = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
        };
        let before = masks();
        let _thread = spawn(&interrupt, move |_| {
            tell.send(masks()).unwrap();
            Ok::<_, Infallible>(())
        });
        let theirs = told.recv_timeout(TIMEOUT).unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
            assert_ne!(theirs & 1 << (signal - 1), 0);
        }
        assert_eq!(masks(), before);
    }
}
