//! Further processes in a container.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nacre_agent::container::{
    Container, ExecError, ExecOptions, Executed, Stdio, config, describe, protect_executable,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use oci_spec::runtime::Process;
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, Outcome, Running, leak, null_stdio, read, text};
use crate::hostile::{Words, result_of_attack};

tests![
    a_process_joins_the_container,
    a_program_may_be_found_by_way_of_its_own_process,
    what_it_cannot_be_is_refused_by_field,
    a_container_that_has_ended_takes_no_more,
    it_is_in_the_inits_cgroup_if_it_must,
    cve_2024_21626_a_leaked_directory_is_no_cwd,
    no_descriptor_leaks_but_those_asked_for,
    a_descriptor_that_is_not_open_is_named,
    cve_2019_5736_the_engines_program_cannot_be_overwritten,
    the_caller_is_where_it_was,
];

/// How long a process may run in a test.
const LIMIT_MS: u16 = 60_000;

/// Returns a process that runs `args` and is otherwise like the container's.
fn process(bundle: &Bundle, args: Value) -> Value {
    let mut process = bundle.config["process"].clone();
    process["args"] = args;
    process
}

fn shell(bundle: &Bundle, script: &str) -> Value {
    process(bundle, json!(["sh", "-c", script]))
}

pub(crate) fn start(
    bundle: &Bundle,
    container: &Container,
    process: &Value,
    options: ExecOptions<'_>,
) -> Result<Executed, ExecError> {
    let spec = config::load(bundle.config.to_string().as_bytes()).unwrap();
    let process: Process = serde_json::from_value(process.clone()).unwrap();
    // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
    unsafe { container.exec(&spec, &process, options) }
}

/// Waits for a process to end, and returns its status: 128+n for a signal.
pub(crate) fn wait(executed: &Executed) -> i32 {
    let mut fds = [PollFd::new(executed.pidfd.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::from(LIMIT_MS)).unwrap();
    assert_eq!(ready, 1, "the process doesn't end");
    match waitpid(executed.pid, None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// Runs a process in a container to its end.
pub(crate) fn run(bundle: &Bundle, running: &mut Running<'_>, process: &Value) -> Outcome {
    run_with(bundle, running, process, |_| {})
}

/// Like [`run`] with a descriptor to be preserved; returns what the process prints.
pub(crate) fn run_preserving(
    bundle: &Bundle,
    running: &mut Running<'_>,
    process: &Value,
) -> String {
    let preserved = File::open("/dev/null").unwrap();
    let put = |fd: i32, flags: i32| {
        // SAFETY: the call touches no memory. The owner of descriptor 3 gets it back.
        assert_eq!(unsafe { libc::dup3(fd, 3, flags) }, 3);
    };
    // SAFETY: it is open as long as it is borrowed.
    let owned = unsafe { BorrowedFd::borrow_raw(3) }
        .try_clone_to_owned()
        .unwrap();
    put(preserved.as_raw_fd(), 0);
    let outcome = run_with(bundle, running, process, |options| options.preserve_fds = 1);
    put(owned.as_raw_fd(), libc::O_CLOEXEC);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    outcome.stdout
}

fn run_with(
    bundle: &Bundle,
    running: &mut Running<'_>,
    process: &Value,
    change: impl FnOnce(&mut ExecOptions<'_>),
) -> Outcome {
    let file = || tempfile::tempfile().unwrap();
    let (stdout, stderr) = (file(), file());
    let mut options = ExecOptions::new(Stdio {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: stdout.try_clone().unwrap().into(),
        stderr: stderr.try_clone().unwrap().into(),
    });
    change(&mut options);
    let executed = start(bundle, running.container(), process, options);
    let executed = executed.unwrap_or_else(|e| panic!("{}", describe(&e)));
    let status = wait(&executed);
    Outcome {
        status,
        stdout: read(&stdout),
        stderr: read(&stderr),
    }
}

/// Runs a script in a container, which must succeed, and returns its output.
pub(crate) fn output(bundle: &Bundle, running: &mut Running<'_>, script: &str) -> String {
    let outcome = run(bundle, running, &shell(bundle, script));
    assert_eq!(outcome.status, 0, "{outcome:?}");
    outcome.stdout
}

fn error(bundle: &Bundle, running: &mut Running<'_>, process: &Value) -> (String, u8) {
    let options = ExecOptions::new(null_stdio());
    match start(bundle, running.container(), process, options) {
        Err(error) => (describe(&error), error.exit_status()),
        Ok(executed) => panic!("it ran, with status {}", wait(&executed)),
    }
}

fn sleeping() -> Bundle {
    Bundle::new("sleep 60")
}

fn a_process_joins_the_container() -> Result<(), Skipped> {
    let list = "for n in /proc/self/ns/*; do case $n in *_for_children) ;; \
                *) readlink $n;; esac; done; hostname; pwd; ls -a /";
    let mut bundle = Bundle::new(&format!("{list}; echo .; sleep 60"));
    bundle.namespace(json!({"type": "cgroup"}));
    bundle.namespace(json!({"type": "time"}));
    bundle.config["hostname"] = json!("inside");
    let mut running = bundle.start();
    running.wait_for(".\n");
    let seen = output(&bundle, &mut running, list);
    let expected = running.stdout();
    assert!(seen.contains("inside\n/\n"), "{seen}");
    assert_eq!(expected, format!("{seen}.\n"));
    let ps = output(&bundle, &mut running, "ps -o args");
    assert!(ps.contains("sleep 60"), "{ps}");
    Ok(())
}

fn what_it_cannot_be_is_refused_by_field() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    let mut process = shell(&bundle, "true");
    process["oomScoreAdj"] = json!(5000);
    let (message, status) = error(&bundle, &mut running, &process);
    assert!(
        message.starts_with("process.oomScoreAdj: 5000"),
        "{message}"
    );
    assert_eq!(status, 1);
    Ok(())
}

fn a_container_that_has_ended_takes_no_more() -> Result<(), Skipped> {
    let bundle = Bundle::new("exit 0");
    let mut running = bundle.start();
    let mut fds = [PollFd::new(
        running.container().pidfd().unwrap(),
        PollFlags::POLLIN,
    )];
    assert_eq!(poll(&mut fds, PollTimeout::from(LIMIT_MS)).unwrap(), 1);
    let (message, status) = error(&bundle, &mut running, &shell(&bundle, "true"));
    assert_eq!((message.as_str(), status), ("the container doesn't run", 1));
    Ok(())
}

fn it_is_in_the_inits_cgroup_if_it_must() -> Result<(), Skipped> {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(Skipped("cgroup2 isn't all that the host has"));
    }
    let bundle = sleeping();
    let mut running = bundle.start();
    let pid = running.container().pid().to_string();
    let cgroup = running.container().cgroup().unwrap().path().to_owned();
    fs::create_dir(cgroup.join("below")).unwrap();
    fs::write(cgroup.join("below/cgroup.procs"), pid).unwrap();
    fs::write(cgroup.join("cgroup.subtree_control"), "+pids +memory").unwrap();
    let seen = output(&bundle, &mut running, "cat /proc/self/cgroup");
    assert!(seen.ends_with("/below\n"), "{seen}");
    Ok(())
}

// CVE-2024-21626.
fn cve_2024_21626_a_leaked_directory_is_no_cwd() -> Result<(), Skipped> {
    let leaked = File::open("/").unwrap();
    leak(&leaked);
    let bundle = sleeping();
    symlink(
        format!("/proc/self/fd/{}", leaked.as_raw_fd()),
        bundle.at("link"),
    )
    .unwrap();
    let mut running = bundle.start();
    let mut process = shell(&bundle, "ls");
    // Tries whatever numbers the engine's own descriptors have by then.
    let numbers = (3..40).map(|fd| format!("/proc/self/fd/{fd}"));
    for cwd in numbers.chain(["/link".to_owned()]) {
        process["cwd"] = json!(cwd);
        let (message, _) = error(&bundle, &mut running, &process);
        assert!(message.contains("process.cwd"), "{cwd}: {message}");
    }
    Ok(())
}

fn no_descriptor_leaks_but_those_asked_for() -> Result<(), Skipped> {
    let leaky = File::open("/etc/passwd").unwrap();
    leak(&leaky);
    let bundle = sleeping();
    let mut running = bundle.start();
    let list = process(&bundle, json!(["ls", "/proc/self/fd"]));
    // The last one is the descriptor of the directory being listed.
    assert_eq!(run(&bundle, &mut running, &list).stdout, "0\n1\n2\n3\n");

    // As a caller does that passes on what it was given.
    let _held = fill_up_to(6);
    let inherit = |flags: FdFlag| {
        for fd in [3, 4] {
            // SAFETY: it is open, and only borrowed for the call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl(fd, FcntlArg::F_SETFD(flags)).unwrap();
        }
    };
    inherit(FdFlag::empty());
    let preserve = |options: &mut ExecOptions<'_>| options.preserve_fds = 2;
    let seen = run_with(&bundle, &mut running, &list, preserve);
    inherit(FdFlag::FD_CLOEXEC);
    assert_eq!(seen.stdout, "0\n1\n2\n3\n4\n5\n");
    Ok(())
}

fn a_descriptor_that_is_not_open_is_named() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    let mut options = ExecOptions::new(null_stdio());
    options.preserve_fds = 100;
    let result = start(
        &bundle,
        running.container(),
        &shell(&bundle, "true"),
        options,
    );
    let message = describe(&result.unwrap_err());
    assert!(
        message.contains("which is to be preserved, isn't open"),
        "{message}"
    );
    Ok(())
}

/// Starts a process in a container from a separate engine, which leaves it running.
pub(crate) fn exec_and_leave(mut words: Words) -> ExitCode {
    let bundle = PathBuf::from(words.next().unwrap());
    let handle = serde_json::from_str(&words.next().unwrap()).unwrap();
    let spec = config::load(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    let mut process = serde_json::to_value(spec.process()).unwrap();
    process["args"] = json!(["/script"]);
    let process: Process = serde_json::from_value(process).unwrap();
    let container = Container::attach(handle, &bundle).unwrap();
    // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
    let executed = unsafe { container.exec(&spec, &process, ExecOptions::new(null_stdio())) };
    executed.unwrap();
    ExitCode::SUCCESS
}

/// Like [`exec_and_leave`], from where the workload can't reach the engine.
pub(crate) fn exec_protected(words: Words) -> ExitCode {
    protect_executable().unwrap();
    exec_and_leave(words)
}

// CVE-2019-5736, by way of exec.
fn cve_2019_5736_the_engines_program_cannot_be_overwritten() -> Result<(), Skipped> {
    let bundle = sleeping();
    fs::write(bundle.at("script"), "#!/proc/self/exe --attack\n").unwrap();
    fs::set_permissions(bundle.at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = bundle.start();
    let handle = serde_json::to_string(&running.container().handle()).unwrap();
    let original = fs::read(std::env::current_exe().unwrap()).unwrap();
    for (part, overwritten) in [("--exec-unprotected", true), ("--exec-protected", false)] {
        let engine = bundle.beside("engine");
        fs::write(&engine, &original).unwrap();
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
        let mut run = Command::new(&engine);
        let run = run.arg(part).arg(bundle.write()).arg(&handle).status();
        assert!(run.unwrap().success());
        let result = result_of_attack(&bundle);
        assert_eq!(
            fs::read(&engine).unwrap() != original,
            overwritten,
            "{}",
            result
        );
        assert_eq!(result.contains("Read-only file system"), !overwritten);
    }
    Ok(())
}

fn the_caller_is_where_it_was() -> Result<(), Skipped> {
    let here = || {
        let mut links: Vec<PathBuf> = fs::read_dir("/proc/self/ns")
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
            .collect();
        links.push(std::env::current_dir().unwrap());
        links.sort();
        links
    };
    let before = here();
    let bundle = sleeping();
    let mut running = bundle.start();
    output(&bundle, &mut running, "true");
    error(
        &bundle,
        &mut running,
        &process(&bundle, json!(["/no/such"])),
    );
    assert_eq!(here(), before);
    assert!(text(bundle.write()).starts_with('/'));
    Ok(())
}

/// Makes descriptors until none below `number` is free.
fn fill_up_to(number: i32) -> Vec<OwnedFd> {
    let mut held = Vec::new();
    loop {
        let fd = OwnedFd::from(File::open("/dev/null").unwrap());
        if fd.as_raw_fd() >= number {
            return held;
        }
        held.push(fd);
    }
}

fn a_program_may_be_found_by_way_of_its_own_process() -> Result<(), Skipped> {
    let bundle = Bundle::new("sleep 20");
    let mut running = bundle.start();
    let args = json!(["/proc/self/root/bin/echo", "found"]);
    let outcome = run(&bundle, &mut running, &process(&bundle, args));
    assert_eq!(
        (outcome.status, &outcome.stdout[..]),
        (0, "found\n"),
        "{outcome:?}"
    );
    let (message, status) = error(
        &bundle,
        &mut running,
        &process(&bundle, json!(["/proc/self/no"])),
    );
    assert_eq!(
        (&message[..], status),
        ("exec: \"/proc/self/no\": no such file or directory", 127)
    );
    Ok(())
}
