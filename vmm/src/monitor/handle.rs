//! The monitor, as its parent has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::wire::{self, Reply, Request, Told};
use crate::channel::Channel;
use crate::child::{Child, Ended};
use crate::config::MAX_DEVICES;
use crate::devices::virtio::net::Tap;
use crate::error::Error;
use crate::exit::Exit;
use crate::hypervisor::{Hypervisor, OLDEST};
use crate::own_user::OwnUser;
use crate::violation::{self, Whose};

/// How long the monitor may take to pause the machine or to let it go on: more than it gives vCPUs
/// and QEMU.
const PAUSING: Duration = Duration::from_secs(7);

/// How long for other changes: more than it gives devices.
const CHANGING: Duration = Duration::from_secs(12);

/// How long to end the machine: more than it gives threads.
const ENDING: Duration = Duration::from_secs(12);

/// How long to start it: QEMU's libraries may be on a slow disk.
const STARTING: Duration = Duration::from_secs(60);

/// How long its process may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// A monitor in a process of its own, and its machine.
///
/// Dropping it kills it.
pub struct Monitor {
    pub(super) channel: Channel,
    /// At its end once the machine has ended, or the monitor.
    pub(super) alive: UnixStream,
    pub(super) child: Child,
    pub(super) hypervisor: Hypervisor,
    /// Its user, and QEMU's.
    pub(super) user: OwnUser,
    /// When it began, since 1970.
    pub(super) begin: Duration,
    /// QEMU's process.
    pub(super) qemu: Option<OwnedFd>,
    /// How its process has ended, once that is known.
    pub(super) ended: OnceLock<Option<Ended>>,
    /// How many requests it has been sent.
    pub(super) asked: AtomicU64,
}

impl Monitor {
    /// Waits until the machine has been made, and starts it.
    ///
    /// # Errors
    ///
    /// Why it couldn't be made or started: [`Error::Told`] in most cases.
    pub fn start(&mut self) -> Result<(), Error> {
        // Reading the kernel takes as long as the host's disk does.
        let (Reply::Done, _) = self.hear(wire::UNASKED, None)? else {
            return Err(Error::MonitorMisspoke);
        };
        let (Reply::Started, files) = self.ask(&Request::Start, &[], STARTING)? else {
            return Err(Error::MonitorMisspoke);
        };
        self.qemu = files.into_iter().next();
        Ok(())
    }

    /// Returns a descriptor that is readable once the machine has ended by itself or failed, or was
    /// stopped, or the monitor has ended.
    pub fn exit_event(&self) -> BorrowedFd<'_> {
        self.alive.as_fd()
    }

    /// Returns the monitor's process.
    pub fn process(&self) -> u32 {
        self.child.pid()
    }

    /// Returns QEMU's process, if QEMU runs the machine.
    pub fn qemu(&self) -> Option<BorrowedFd<'_>> {
        self.qemu.as_ref().map(AsFd::as_fd)
    }

    /// Plugs a network device in, whose other end is `tap`, and which has this address and this MTU,
    /// in bytes without the Ethernet header. Returns the number N of the guest's `virtio-mmio.N` that
    /// has become that device ([`RunningVm::plug_net`](crate::RunningVm::plug_net)).
    ///
    /// # Errors
    ///
    /// As that, in words.
    pub fn plug_net(&self, tap: &Tap, mac: [u8; 6], mtu: u16) -> Result<usize, Error> {
        let (name, udp_offloads, queues) = tap.parts();
        let request = Request::Plug {
            tap: name.to_owned(),
            udp_offloads,
            mac,
            mtu,
        };
        match self.ask(&request, &queues, CHANGING)? {
            (Reply::Plugged(slot), _) if slot < MAX_DEVICES => Ok(slot),
            _ => Err(Error::MonitorMisspoke),
        }
    }

    /// Unplugs a network device, and closes its tap
    /// ([`RunningVm::unplug_net`](crate::RunningVm::unplug_net)). If the monitor doesn't do that, the
    /// machine ends.
    pub fn unplug_net(&self, slot: usize) {
        if self.do_it(&Request::Unplug(slot), CHANGING).is_err() {
            self.child.kill();
        }
    }

    /// Stops its vCPUs until [`resume`](Self::resume). Its devices continue with what they have
    /// been given. Does nothing to a machine that is paused or has ended.
    ///
    /// # Errors
    ///
    /// If a vCPU doesn't stop within seconds, or QEMU can't be signalled; the machine continues
    /// then.
    pub fn pause(&self) -> Result<(), Error> {
        self.pause_within(PAUSING)
    }

    fn pause_within(&self, limit: Duration) -> Result<(), Error> {
        let paused = self.do_it(&Request::Pause, limit);
        if let Err(Error::MonitorSilent(_)) = paused {
            // It may come to the request later still, and then to this one, whose answer nobody
            // waits for.
            self.say(&Request::Resume, &[], limit)?;
        }
        paused
    }

    /// Lets the vCPUs continue.
    ///
    /// # Errors
    ///
    /// If QEMU can't be signalled.
    pub fn resume(&self) -> Result<(), Error> {
        self.do_it(&Request::Resume, PAUSING)
    }

    /// Returns how the machine ended, and the last lines of its serial console; stops it if it hasn't
    /// ended. The monitor's process is gone then.
    ///
    /// # Errors
    ///
    /// What made the machine, or its monitor, fail.
    pub fn finish(self) -> (Result<Exit, Error>, String) {
        // Somebody may have stopped it.
        let _ = self.child.signal(libc::SIGCONT);
        let (outcome, exited, console_tail) = match self.ask(&Request::Finish, &[], ENDING) {
            Err(error) => return (Err(error), String::new()),
            Ok((
                Reply::Finished {
                    outcome,
                    exited,
                    console_tail,
                },
                _,
            )) => (outcome, exited, wire::plain(&console_tail)),
            Ok(_) => return (Err(Error::MonitorMisspoke), String::new()),
        };
        self.end();
        let outcome = match outcome {
            Ok(ended) => Ok(ended.into()),
            Err(told) => Err(self.explain(told)),
        };
        (
            outcome.map_err(|error| self.suspect(error, exited)),
            console_tail,
        )
    }

    /// Adds to an error what its reader should look at if QEMU has exited by itself. This process may
    /// execute nothing, so it can't ask the program which version it is.
    fn suspect(&self, mut error: Error, exited: bool) -> Error {
        if let (Error::QemuEnded { how, .. }, Hypervisor::Qemu(qemu)) =
            (&mut error, &self.hypervisor)
            && exited
        {
            let path = qemu.path().display();
            *how +=
                &format!(" (it must be QEMU {OLDEST} or later; {path} --version says what it is)");
        }
        error
    }

    /// Adds to an error what the monitor has no right to find out.
    fn explain(&self, told: Told) -> Error {
        let mut error = Error::from(told);
        if let Error::QemuEnded { how, .. } = &mut error
            && *how == Ended::Killed(libc::SIGSYS).to_string()
        {
            *how += &self.violation();
        }
        error
    }

    /// Returns words for the system call that the user's process was killed for.
    fn violation(&self) -> String {
        violation::words(Whose::User(self.user), self.begin)
    }

    fn do_it(&self, request: &Request, limit: Duration) -> Result<(), Error> {
        match self.ask(request, &[], limit)? {
            (Reply::Done, _) => Ok(()),
            _ => Err(Error::MonitorMisspoke),
        }
    }

    fn ask(
        &self,
        request: &Request,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let number = self.say(request, files, limit)?;
        self.hear(number, Some(limit))
    }

    /// Sends a request, and returns its number.
    fn say(
        &self,
        request: &Request,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<u64, Error> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let said = wire::say(&self.channel, number, request, files, limit);
        said.map_err(|error| self.unheard(error, limit))?;
        Ok(number)
    }

    /// Waits for the answer to the request of that number. Those to earlier ones, which came too
    /// late, say nothing about it.
    fn hear(&self, number: u64, limit: Option<Duration>) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match wire::hear(&self.channel, left) {
                Ok(Some((late, _, _))) if late < number && left != Some(Duration::ZERO) => {}
                Ok(Some((other, _, _))) if other != number => return Err(Error::MonitorMisspoke),
                Ok(Some((_, Reply::Failed(told), _))) => return Err(self.explain(told)),
                Ok(Some((_, reply, message))) => return Ok((reply, message.files)),
                Ok(None) => {
                    let gone = io::ErrorKind::BrokenPipe.into();
                    return Err(self.unheard(gone, Duration::ZERO));
                }
                Err(error) => return Err(self.unheard(error, limit.unwrap_or_default())),
            }
        }
    }

    /// Returns why the monitor can't be spoken to.
    fn unheard(&self, error: io::Error, limit: Duration) -> Error {
        match error.kind() {
            io::ErrorKind::TimedOut => Error::MonitorSilent(limit),
            io::ErrorKind::BrokenPipe => Error::MonitorEnded {
                how: self.how_it_ended(),
            },
            io::ErrorKind::InvalidData => Error::MonitorMisspoke,
            _ => Error::host("speaking with the monitor")(error),
        }
    }

    /// Returns how the monitor's process has ended, which has closed its end.
    fn how_it_ended(&self) -> String {
        // Otherwise it only pretends to.
        self.child.has_ended_within(ENDS_WITHIN);
        match self.end() {
            Some(ended @ Ended::Killed(libc::SIGSYS)) => format!("{ended}{}", self.violation()),
            Some(ended) => ended.to_string(),
            None => "has ended".into(),
        }
    }

    /// Ends the process, and leaves no zombie, unless it is held up in the host's kernel: then
    /// whoever reaps this process's children does so later. Returns how it ended.
    fn end(&self) -> &Option<Ended> {
        self.ended.get_or_init(|| {
            self.child.kill();
            let has_ended = self.child.has_ended_within(ENDS_WITHIN);
            has_ended.then(|| self.child.reap().ok()).flatten()
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::FromRawFd;
    use std::process::{self, Command};

    use super::*;

    /// Makes a handle to a process that does nothing, whose side the test speaks for.
    fn monitor() -> (Monitor, Channel, process::Child) {
        let (channel, theirs) = Channel::pair().unwrap();
        let (alive, _) = UnixStream::pair().unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        // SAFETY: the call takes numbers; the descriptor is new, and nobody else's.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, process.id(), 0);
            OwnedFd::from_raw_fd(fd.try_into().unwrap())
        };
        let monitor = Monitor {
            channel,
            alive,
            child: Child::new(pidfd, process.id()),
            hypervisor: Hypervisor::Kvm,
            user: OwnUser::choose().unwrap(),
            begin: Duration::ZERO,
            qemu: None,
            ended: OnceLock::new(),
            asked: AtomicU64::new(0),
        };
        (monitor, theirs, process)
    }

    #[test]
    fn a_monitor_that_makes_no_sense_is_an_error() {
        let nonsense = [
            &b"{"[..],
            b"[]",
            b"[1,{\"Plugged\":1}]",
            b"[2,\"Done\"]",
            &[b'['; 4096],
        ];
        for nonsense in nonsense {
            let (monitor, theirs, _process) = monitor();
            theirs.send(nonsense, &[], PAUSING).unwrap();
            let error = monitor.pause().unwrap_err();
            assert!(matches!(error, Error::MonitorMisspoke), "{error:?}");
        }
    }

    #[test]
    fn the_end_of_a_monitor_is_told_and_leaves_no_zombie() {
        let (monitor, theirs, process) = monitor();
        let process = process.id();
        monitor.child.kill();
        drop(theirs);
        let error = monitor.resume().unwrap_err();
        assert_eq!(error.to_string(), "the monitor was killed by SIGKILL");
        let (outcome, _) = monitor.finish();
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "the monitor was killed by SIGKILL"
        );
        assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    }

    #[test]
    fn a_monitor_that_only_pretends_to_have_ended_is_ended() {
        let (monitor, theirs, process) = monitor();
        drop(theirs);
        let error = monitor.pause().unwrap_err();
        assert_eq!(error.to_string(), "the monitor was killed by SIGKILL");
        drop(process);
    }

    #[test]
    fn a_late_answer_is_not_that_to_the_next_request() {
        let (mut monitor, theirs, _process) = monitor();
        monitor.asked = AtomicU64::new(1);
        let late = Reply::Failed(Told::PauseTimeout);
        wire::say(&theirs, 1, &late, &[], PAUSING).unwrap();
        wire::say(&theirs, 2, &Reply::Done, &[], PAUSING).unwrap();
        monitor.resume().unwrap();
    }

    #[test]
    fn a_machine_that_pauses_too_late_continues() {
        let (monitor, theirs, _process) = monitor();
        let error = monitor.pause_within(Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::MonitorSilent(_)), "{error:?}");
        let heard = || wire::hear(&theirs, Some(PAUSING)).unwrap().unwrap().1;
        assert!(matches!(heard(), Request::Pause));
        assert!(matches!(heard(), Request::Resume));
    }

    #[test]
    fn a_device_is_where_there_can_be_one() {
        let queue = File::open("/dev/null").unwrap();
        let tap = Tap::of_parts("none".into(), false, vec![queue]).unwrap();
        for (slot, is_one) in [
            (MAX_DEVICES - 1, true),
            (MAX_DEVICES, false),
            (1 << 32, false),
        ] {
            let (monitor, theirs, _process) = monitor();
            wire::say(&theirs, 1, &Reply::Plugged(slot), &[], PAUSING).unwrap();
            let plugged = monitor.plug_net(&tap, [2; 6], 1500);
            assert_eq!(plugged.is_ok(), is_one, "{slot}");
        }
    }
}
