//! The line to a monitor that was taken over, for fuzzing.

use std::error::Error as _;
use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::handle::Monitor;
use crate::channel::{Channel, MAX_FILES};
use crate::child::{self, Child};
use crate::devices::virtio::net::Tap;
use crate::error::Error;
use crate::fork::fork;
use crate::hypervisor::Hypervisor;
use crate::own_user::OwnUser;

/// What marks a file that comes with a message, at its beginning.
const FILE: u8 = b'@';

/// What a monitor says, whatever it is asked: a line of `said` is a message, or an answer. Its parent asks
/// for all that there is to ask for, and is to be told of errors in words without control characters.
pub(crate) fn says(said: &[u8]) {
    let null = File::open("/dev/null").expect("every host has it");
    let (channel, theirs) = Channel::pair().expect("there are sockets");
    for line in said.split(|byte| *byte == b'\n') {
        let files = line.iter().take_while(|byte| **byte == FILE).count();
        let passed = vec![null.as_fd(); files.min(MAX_FILES)];
        if theirs
            .send(&line[files..], &passed, Duration::ZERO)
            .is_err()
        {
            break;
        }
    }
    // Nothing more is said, but what is asked can be sent.
    let theirs = UnixStream::from(OwnedFd::from(theirs));
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let mut monitor = monitor(channel);
    let tap = Tap::of_parts("fuzzed".into(), false, vec![null]).expect("a file is a queue");
    let told = [
        monitor.start().err(),
        monitor.pause().err(),
        monitor.resume().err(),
        monitor.plug_net(&tap, [2; 6], 1500).err(),
    ];
    monitor.unplug_net(0);
    let (outcome, console) = monitor.finish();
    check(&console);
    told.into_iter()
        .flatten()
        .chain(outcome.err())
        .for_each(|error| check_all(&error));
}

/// Returns the handle of a monitor whose process has ended.
fn monitor(channel: Channel) -> Monitor {
    static ENDED: OnceLock<OwnedFd> = OnceLock::new();
    let ended = ENDED.get_or_init(|| {
        // SAFETY: the child ends without doing anything else.
        match unsafe { fork() }.expect("there are processes") {
            Some(child) => {
                let process = child
                    .as_fd()
                    .try_clone_to_owned()
                    .expect("there are descriptors");
                child.reap().expect("it is a child");
                process
            }
            None => child::exit(0),
        }
    });
    let (alive, _) = UnixStream::pair().expect("there are sockets");
    Monitor {
        channel,
        alive,
        child: Child::new(ended.try_clone().expect("there are descriptors"), 0),
        hypervisor: Hypervisor::Kvm,
        user: OwnUser::choose().expect("there are users"),
        begin: Duration::ZERO,
        qemu: None,
        ended: OnceLock::new(),
        asked: AtomicU64::new(0),
    }
}

/// Checks what is said of an error, with its causes.
fn check_all(error: &Error) {
    check(&error.to_string());
    check(error.console_tail().unwrap_or_default());
    let mut cause = error.source();
    while let Some(error) = cause {
        check(&error.to_string());
        cause = error.source();
    }
}

fn check(words: &str) {
    let is_control = |c: char| c.is_control() && c != '\n';
    assert!(!words.contains(is_control), "{words:?}");
}
