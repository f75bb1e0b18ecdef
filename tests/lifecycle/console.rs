//! Terminals: given to the caller over a socket, or the caller's own in the foreground.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use nacre_tests::console::{ConsoleSocket, Terminal, in_shell};
use nacre_tests::{Bundle, Case};
use serde_json::json;

nacre_tests::tests![
    over_a_socket,
    the_callers_streams_are_let_go_of,
    its_size_is_the_one_asked_for,
    interrupts_and_hang_ups,
    exec_over_a_socket,
    it_is_the_users,
    no_socket_to_send_it_to,
    a_socket_of_the_wrong_kind,
    in_the_foreground,
    exec_in_the_foreground,
    who_looks_no_more_hangs_up,
];

fn with_terminal(bundle: Bundle) -> Bundle {
    bundle.set("/process/terminal", true)
}

/// Runs a command with a console socket, and returns the terminal.
fn over_socket(case: &Case, words: &[&str], rest: &[&str]) -> Terminal {
    let socket = ConsoleSocket::listen(case.directory());
    let mut command = case.nacre();
    command
        .args(words)
        .arg("--console-socket")
        .arg(socket.path())
        .args(rest);
    let (status, terminal) = std::thread::scope(|scope| {
        let status = scope.spawn(move || case.leave(command));
        let terminal = socket.receive();
        (status.join().unwrap(), terminal)
    });
    assert_eq!(status, 0, "{}", case.output());
    fs::remove_file(socket.path()).unwrap();
    terminal
}

fn over_a_socket(case: &Case) {
    let bundle = with_terminal(case.busybox()).shell(
        "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; stat -c '%t:%T' /dev/console
         echo through >/dev/tty; while read line; do echo \"read $line\"; done",
    );
    let directory = bundle.write().to_str().unwrap();
    let mut terminal = over_socket(case, &["create", "--bundle", directory], &[case.id()]);
    // It is named as in the container, or as its maker knows it.
    assert!(!terminal.name.is_empty());
    case.command(&["start", case.id()]).ok();
    let seen = terminal.wait_for("through\r\n");
    assert!(seen.starts_with("/dev/pts/0\r\nall three\r\n"), "{seen:?}");
    terminal.write("some words\n");
    terminal.wait_for("read some words\r\n");
    // End of file.
    terminal.write("\x04");
    case.wait_for_status("stopped");
    case.remove_container();
}

/// containerd's shim reads them to their end before it goes on to the start.
fn the_callers_streams_are_let_go_of(case: &Case) {
    let bundle = with_terminal(case.busybox()).args(["sleep", "1000"]);
    let socket = ConsoleSocket::listen(case.directory());
    let mut command = case.nacre();
    command.args(["create", "--bundle"]).arg(bundle.write());
    command
        .arg("--console-socket")
        .arg(socket.path())
        .arg(case.id());
    let running = case.spawn(command);
    let _terminal = socket.receive();
    // Reads both streams.
    assert_eq!(running.finish().ok(), "");
    assert_eq!(case.status(), "created");
    case.remove_container();
}

fn its_size_is_the_one_asked_for(case: &Case) {
    let bundle = with_terminal(case.busybox())
        .set("/process/consoleSize", json!({ "height": 31, "width": 79 }))
        .shell("trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done");
    let directory = bundle.write().to_str().unwrap();
    let words = ["run", "--detach", "--bundle", directory];
    let mut terminal = over_socket(case, &words, &[case.id()]);
    terminal.wait_for("31 79\r\n");
    terminal.resize(40, 100);
    terminal.wait_for("40 100\r\n");
    case.remove_container();
    // Without a terminal it is ignored.
    let bundle = bundle.set("/process/terminal", false).args(["true"]);
    assert_eq!(case.run(&bundle).ok(), "");
}

fn interrupts_and_hang_ups(case: &Case) {
    let bundle = with_terminal(case.busybox()).shell(
        "trap 'echo interrupted' INT; trap 'echo hung up >/hung-up; exit 0' HUP; echo ready
         while :; do sleep 0.05; done",
    );
    let marker = bundle.rootfs().join("hung-up");
    let directory = bundle.write().to_str().unwrap();
    let words = ["run", "--detach", "--bundle", directory];
    let mut terminal = over_socket(case, &words, &[case.id()]);
    terminal.wait_for("ready");
    terminal.write("\x03");
    terminal.wait_for("interrupted");
    // Nothing else holds the terminal's other end.
    drop(terminal);
    case.wait_for_status("stopped");
    assert!(marker.exists());
    case.remove_container();
}

fn exec_over_a_socket(case: &Case) {
    case.idle();
    let words = ["exec", "--detach", "--tty"];
    let rest = [
        case.id(),
        "sh",
        "-c",
        "tty; read line; echo \"read $line\"; trap 'stty size' WINCH; echo listens
         while :; do sleep 0.05; done",
    ];
    let mut terminal = over_socket(case, &words, &rest);
    terminal.wait_for("/dev/pts/0\r\n");
    terminal.write("words\n");
    terminal.wait_for("read words\r\nlistens\r\n");
    terminal.resize(40, 100);
    terminal.wait_for("40 100\r\n");
    case.remove_container();
}

fn it_is_the_users(case: &Case) {
    let bundle = with_terminal(case.busybox())
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
        .shell("stat -c '%u %a' $(tty); echo again >$(tty); echo fine >/dev/console; sleep 1000");
    let directory = bundle.write().to_str().unwrap();
    let words = ["run", "--detach", "--bundle", directory];
    let mut terminal = over_socket(case, &words, &[case.id()]);
    let seen = terminal.wait_for("fine\r\n");
    assert!(seen.contains("1000 620\r\nagain\r\n"), "{seen:?}");
    case.remove_container();
}

fn no_socket_to_send_it_to(case: &Case) {
    let bundle = with_terminal(case.busybox());
    let directory = bundle.write().to_str().unwrap();
    for words in [
        ["create", "--bundle", directory, case.id()].as_slice(),
        &["run", "--detach", "--bundle", directory, case.id()],
    ] {
        case.command(words).refused_somehow();
    }
    // A socket without a terminal is refused too.
    case.busybox().write();
    let socket = ConsoleSocket::listen(case.directory());
    let path = socket.path().to_str().unwrap();
    let outcome = case.command(&[
        "create",
        "--bundle",
        directory,
        "--console-socket",
        path,
        case.id(),
    ]);
    let message = outcome.refused(1);
    assert!(
        message.contains("cannot use console socket if "),
        "{message}"
    );
}

fn a_socket_of_the_wrong_kind(case: &Case) {
    let bundle = with_terminal(case.busybox());
    let directory = bundle.write().to_str().unwrap();
    let place = |name: &str| case.directory().join(name);
    fs::write(place("file"), "").unwrap();
    let _datagram = UnixDatagram::bind(place("datagram")).unwrap();
    drop(UnixListener::bind(place("abandoned")).unwrap());
    for name in ["file", "datagram", "abandoned", "missing", "rootfs"] {
        let path = place(name);
        let path = path.to_str().unwrap();
        case.command(&[
            "create",
            "--bundle",
            directory,
            "--console-socket",
            path,
            case.id(),
        ])
        .refused_somehow();
        assert_eq!(case.command(&["list", "-q"]).ok(), "", "{name}");
    }
}

fn in_the_foreground(case: &Case) {
    // `read` without a timeout may not notice the signal.
    let bundle = with_terminal(case.busybox()).shell(
        "trap 'echo interrupted' INT; tty; stty size; echo ready
         until read -t 1 line; do :; done; echo \"the line is $line\"; exit 6",
    );
    let mut run = case.nacre();
    run.args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let session = format!(
        "stty -echo rows 33 cols 77; stty -g >{0}/before; {1}; echo status $?
         stty -g >{0}/after; read line; echo the shell reads $line",
        case.directory().display(),
        in_shell(&run)
    );
    let mut running = case.at_a_terminal(&session);
    let seen = running.wait_for_line("ready\r").replace('\r', "");
    assert_eq!(seen, "/dev/pts/0\n33 77\n");
    let mut keyboard = running.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    running.wait_for_line("interrupted\r");
    keyboard.write_all(b"words\n").unwrap();
    running.wait_for_line("the line is words\r");
    running.wait_for_line("status 6\r");
    keyboard.write_all(b"two\n").unwrap();
    running.wait_for_line("the shell reads two\r");
    drop(keyboard);
    running.finish().expect(0);
    let saved = |name: &str| fs::read_to_string(case.directory().join(name)).unwrap();
    assert_eq!(saved("before"), saved("after"), "the terminal's settings");
}

fn exec_in_the_foreground(case: &Case) {
    case.idle();
    let mut exec = case.nacre();
    exec.args(["exec", "--tty", case.id(), "sh", "-c"]);
    exec.arg("tty; stty size; echo ready; read line; echo \"read $line\"; exit 8");
    let session = format!(
        "stty -echo rows 22 cols 66; {}; echo status $?",
        in_shell(&exec)
    );
    let mut running = case.at_a_terminal(&session);
    let seen = running.wait_for_line("ready\r").replace('\r', "");
    assert_eq!(seen, "/dev/pts/0\n22 66\n");
    let mut keyboard = running.stdin.take().unwrap();
    keyboard.write_all(b"words\n").unwrap();
    running.wait_for_line("read words\r");
    running.wait_for_line("status 8\r");
    drop(keyboard);
    running.finish().expect(0);
    case.remove_container();
}

fn who_looks_no_more_hangs_up(case: &Case) {
    let ends = case.directory().join("ends");
    let until_a_line = |command: &Command| {
        let session = format!(
            "{{ {}; echo $? >>{}; }} | head -n 1",
            in_shell(command),
            ends.display()
        );
        let mut running = case.at_a_terminal(&session);
        // The end of the input would be typed.
        let _keyboard = running.stdin.take();
        assert_eq!(running.finish().expect(0).trim(), "y");
    };
    // A pid namespace's first process doesn't get signals that it doesn't handle: its write fails.
    let bundle = with_terminal(case.busybox()).args(["yes"]);
    let mut run = case.nacre();
    run.args(["run", "--bundle"]).arg(bundle.write());
    until_a_line(run.arg(case.id()));
    case.idle();
    let mut exec = case.nacre();
    until_a_line(exec.args(["exec", "--tty", case.id(), "yes"]));
    // The process of the exec is killed by SIGHUP.
    assert_eq!(fs::read_to_string(ends).unwrap(), "1\n129\n");
    case.remove_container();
}
