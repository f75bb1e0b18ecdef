//! `run` and `exec` with a terminal, in the foreground: the caller's terminal is raw meanwhile, and
//! is restored no matter what ends them; the container's terminal is as large as the caller's.

use std::fs;
use std::io::Write;
use std::process::Command;

use nacre_tests::console::in_shell;
use nacre_tests::{Case, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

nacre_tests::tests![
    a_runs_terminal_comes_back,
    an_execs_terminal_comes_back,
    a_failed_starts_terminal_comes_back,
    another_size,
    a_terminal_that_is_gone,
];

/// Ends by itself with 3 once a line has been typed, and with 4 at SIGTERM: a second later if the
/// signal comes right before `read` waits, which doesn't notice it then.
const WORKLOAD: &str =
    "trap 'exit 4' TERM; echo $$; echo ready; until read -t 1 line; do :; done; exit 3";

/// A command that a shell runs at a terminal of its own.
struct Session {
    running: Running,
    /// The terminal's path.
    terminal: String,
    /// What the workload wrote before it was ready.
    said: String,
}

impl Session {
    /// Starts a command, and waits until the workload has written a line `ready`.
    fn begin(case: &Case, command: &Command) -> Self {
        let mut running = case.at_a_terminal(&script(case, command));
        let said = running.wait_for_line("ready\r").replace('\r', "");
        let (terminal, said) = said.split_once('\n').unwrap();
        Self {
            running,
            terminal: terminal.to_owned(),
            said: said.to_owned(),
        }
    }

    fn settings(&self) -> String {
        self.stty(&["-g"])
    }

    fn stty(&self, words: &[&str]) -> String {
        let mut stty = Command::new("stty");
        let output = stty.args(["-F", &self.terminal]).args(words).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn type_line(&mut self) {
        let keyboard = self.running.stdin.as_mut().unwrap();
        keyboard.write_all(b"\n").unwrap();
    }

    /// Waits until the command has ended with this status, and its shell has ended too.
    fn end(mut self, status: i32) {
        self.running.wait_for_line(&format!("status {status}\r"));
        self.running.finish().expect(0);
    }
}

/// Returns the shell's script: it prints its terminal's path, and writes the command's pid and the
/// terminal's settings before and after the command to files.
fn script(case: &Case, command: &Command) -> String {
    let directory = case.directory().display();
    let mut inner = Command::new("sh");
    inner
        .args([
            "-c",
            &format!("echo $$ >{directory}/nacre-pid; exec \"$@\""),
        ])
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    format!(
        "stty -echo; tty; stty -g >{directory}/before; {}; echo status $?; stty -g >{directory}/after",
        in_shell(&inner)
    )
}

fn saved(case: &Case, name: &str) -> String {
    fs::read_to_string(case.directory().join(name)).unwrap()
}

/// The way in which a command that waits for a workload ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The workload ends by itself.
    Itself,
    /// `kill` of the command, which passes the signal on.
    Signalled,
    /// `kill -9` of the workload.
    Killed,
    /// `kill -9` of the container's stand-in.
    WithItsContainer,
}

const ENDS: [End; 4] = [
    End::Itself,
    End::Signalled,
    End::Killed,
    End::WithItsContainer,
];

/// Ends a command in this way, and checks the terminal before, meanwhile and afterwards.
fn comes_back(case: &Case, command: &Command, end: End, kill_workload: impl FnOnce(&str)) {
    let mut session = Session::begin(case, command);
    assert_ne!(session.settings(), saved(case, "before"), "{end:?}");
    let status = match end {
        End::Itself => {
            session.type_line();
            3
        }
        End::Signalled => {
            let pid: i32 = saved(case, "nacre-pid").trim().parse().unwrap();
            kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
            4
        }
        End::Killed => {
            kill_workload(session.said.trim());
            137
        }
        End::WithItsContainer => {
            let pid = i32::try_from(case.inspect()["pid"].as_i64().unwrap()).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            137
        }
    };
    session.end(status);
    assert_eq!(saved(case, "before"), saved(case, "after"), "{end:?}");
}

fn run(case: &Case, args: &[&str]) -> Command {
    let bundle = case.busybox().set("/process/terminal", true).args(args);
    let mut command = case.nacre();
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id());
    command
}

fn exec(case: &Case, script: &str) -> Command {
    let mut command = case.nacre();
    command.args(["exec", "--tty", case.id(), "sh", "-c", script]);
    command
}

fn a_runs_terminal_comes_back(case: &Case) {
    for end in ENDS {
        comes_back(case, &run(case, &["sh", "-c", WORKLOAD]), end, |_| {
            case.command(&["kill", case.id(), "KILL"]).ok();
        });
    }
}

fn an_execs_terminal_comes_back(case: &Case) {
    case.idle();
    for end in ENDS {
        comes_back(case, &exec(case, WORKLOAD), end, |pid| {
            case.command(&["exec", case.id(), "kill", "-9", pid]).ok();
        });
    }
    case.remove_container();
}

fn a_failed_starts_terminal_comes_back(case: &Case) {
    let running = case.at_a_terminal(&script(case, &run(case, &["nonesuch"])));
    let output = running.finish().expect(0);
    assert!(output.contains("\nstatus 127\r\n"), "{output:?}");
    assert_eq!(saved(case, "before"), saved(case, "after"));
}

fn another_size(case: &Case) {
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let resize = |command: &Command| {
        let mut session = Session::begin(case, command);
        for (rows, columns) in [("40", "100"), ("41", "99")] {
            session.stty(&["rows", rows, "cols", columns]);
            let line = format!("{rows} {columns}\r");
            session.running.wait_for_line(&line);
        }
        session
    };
    let ran = resize(&run(case, &["sh", "-c", script]));
    let executed = resize(&exec(case, script));
    case.command(&["kill", case.id(), "KILL"]).ok();
    ran.end(137);
    executed.end(137);
}

/// As when a connection breaks: workloads are notified, and the commands end.
fn a_terminal_that_is_gone(case: &Case) {
    let script = |name: &str| {
        format!(
            "trap 'echo hung up >/{name}; exit 0' HUP; echo ready; while :; do sleep 0.05; done"
        )
    };
    let hang_up = |command: &Command, name: &str| {
        let mut session = Session::begin(case, command);
        // Kills script(1), which has the terminal's other end.
        session.running.kill();
        let marker = case.busybox().rootfs().join(name);
        case.wait_for("the hang-up", || marker.exists());
    };
    hang_up(&run(case, &["sh", "-c", &script("run")]), "run");
    case.wait_for("the end of run", || {
        case.command(&["list", "--quiet"]).ok().is_empty()
    });
    case.idle();
    hang_up(&exec(case, &script("exec")), "exec");
    assert_eq!(case.status(), "running");
    case.remove_container();
}
