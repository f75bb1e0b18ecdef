//! Workloads and checks that are the same for every client.

use std::io::{Read, Write};
use std::process::Command;

use nacre_tests::console::in_shell;
use nacre_tests::nacre::is_reference;
use nacre_tests::{Case, Outcome, Running};

/// The workload for [`talk`], at a terminal.
pub(crate) const TALKS: &str = "trap 'echo interrupted; exit 4' INT; tty; echo ready
     read line; echo \"got $line\"; while :; do sleep 0.05; done";

/// Types at the terminal of a command whose workload is [`TALKS`]: a line, which only the
/// container's terminal echoes, so once, and ^C. Fails unless that terminal has this name.
#[track_caller]
pub(crate) fn talk(case: &Case, command: &Command, terminal: &str) {
    let mut running = case.at_a_terminal(&in_shell(command));
    assert_eq!(hear(&mut running, "ready"), format!("{terminal}\n"));
    let mut keyboard = running.stdin.take().unwrap();
    keyboard.write_all(b"some words\r").unwrap();
    assert_eq!(hear(&mut running, "got some words"), "some words\n");
    keyboard.write_all(b"\x03").unwrap();
    hear(&mut running, "interrupted");
    drop(keyboard);
    running.finish().expect(4);
}

/// Reads up to a line, and returns what came before. Carriage returns are left out: ctr's terminals
/// have them, except with runc.
#[track_caller]
fn hear(running: &mut Running, line: &str) -> String {
    let stdout = running.stdout.as_mut().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    loop {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "no {line:?}: {text:?}");
        text.extend(byte.map(char::from).iter().filter(|c| **c != '\r'));
        if let Some(before) = text
            .strip_suffix('\n')
            .and_then(|text| text.strip_suffix(line))
        {
            return before.to_owned();
        }
    }
}

/// Counts until SIGTERM.
pub(crate) const COUNTS: &str =
    "i=0; trap 'exit 6' TERM; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

/// Prints the name of the first process, makes a process its orphan, kills that, and waits until it
/// is reaped: until then it is a zombie. Ends with 7.
pub(crate) const ORPHANS: &str = "cat /proc/1/comm; (sleep 1000 & echo $! >/tmp/orphan)
     orphan=/proc/$(cat /tmp/orphan); until grep -q '^PPid:.1$' $orphan/status; do sleep 0.05; done
     kill ${orphan#/proc/}; while [ -e $orphan ]; do sleep 0.05; done; echo reaped; exit 7";

/// Makes files that can't be executed.
pub(crate) const UNFIT: &str = "echo no program >/garbage; echo '#!/no/such' >/script
     chmod +x /garbage /script; ln -s loop /loop";

/// Returns what can't be executed, [made](UNFIT) or already there, and the exit status that a shell
/// has for it. With runc it is 1 where only the kernel can tell.
pub(crate) fn unfit() -> impl Iterator<Item = (&'static str, i32)> {
    let told = [("/etc/passwd", 126), ("/etc", 126)];
    let untold = [("/garbage", 126), ("/script", 127), ("/loop", 126)];
    let tested = if is_reference() { 0 } else { untold.len() };
    told.into_iter().chain(untold.into_iter().take(tested))
}

/// Returns what nc(1) in a container got from a server: `None` if it reports that it didn't reach
/// it. That is its status 1, which no client uses for a container that can't be run.
#[track_caller]
pub(crate) fn answer(outcome: &Outcome) -> Option<String> {
    match outcome.status() {
        Some(0) => Some(outcome.text()),
        Some(1) if outcome.stderr.contains("nc: ") => None,
        _ => panic!("{outcome:?}"),
    }
}
