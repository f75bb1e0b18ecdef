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
use crate::hostile::wait_until;

tests![
    a_process_joins_the_container,
    its_status_is_its_own,
    its_user_and_limits_are_as_given,
    a_program_that_is_not_there_is_told_of,
    a_program_may_be_found_by_way_of_its_own_process,
    what_it_cannot_be_is_refused_by_field,
    a_directory_that_is_not_there_is_told_of,
    a_container_that_has_ended_takes_no_more,
    it_is_in_the_containers_cgroup,
    it_can_be_in_a_cgroup_below,
    it_is_in_the_inits_cgroup_if_it_must,
    it_ends_with_the_container,
    a_container_that_waits_to_be_started_takes_one,
    cve_2024_21626_a_leaked_directory_is_no_cwd,
    no_descriptor_leaks_but_those_asked_for,
    a_descriptor_that_is_not_open_is_named,
    cve_2019_5736_the_engines_program_cannot_be_overwritten,
    the_caller_is_where_it_was,
];

/// How long a process may run in a test.
const LIMIT_MS: u16 = 20_000;

/// A process that runs `args`, otherwise as the container's.
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
    container.exec(&spec, &process, options)
}

/// Waits for a process to end. Its status is 128+n for a signal.
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

/// As [`run`], for what it prints, with a descriptor that is to be preserved.
pub(crate) fn run_preserving(
    bundle: &Bundle,
    running: &mut Running<'_>,
    process: &Value,
) -> String {
    let preserved = File::open("/dev/null").unwrap();
    let put = |fd: i32, flags: i32| {
        // SAFETY: the call touches no memory. Whoever owns descriptor 3 gets it back.
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

/// What a script prints that is run in a container, to a good end.
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

fn its_status_is_its_own() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    for (script, status) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137)] {
        let outcome = run(&bundle, &mut running, &shell(&bundle, script));
        assert_eq!(outcome.status, status, "{script}");
    }
    let outcome = run(
        &bundle,
        &mut running,
        &shell(&bundle, "echo out; echo err >&2"),
    );
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
    Ok(())
}

fn its_user_and_limits_are_as_given() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    let script = "id -u; id -g; id -G; umask; pwd; echo $A; ulimit -n; \
                  grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; \
                  cat /proc/self/oom_score_adj; ionice -p $$";
    let mut process = shell(&bundle, script);
    process["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o77});
    process["cwd"] = json!("/proc");
    process["env"] = json!(["PATH=/bin", "A=b"]);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    process["capabilities"] = json!({
        "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    process["noNewPrivileges"] = json!(true);
    process["oomScoreAdj"] = json!(500);
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 5});
    assert_eq!(
        run(&bundle, &mut running, &process).stdout,
        "7\n8\n8 9\n0077\n/proc\nb\n100\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000020\n\
         NoNewPrivs:\t1\n500\nbest-effort: prio 5\n"
    );
    Ok(())
}

fn a_program_that_is_not_there_is_told_of() -> Result<(), Skipped> {
    let bundle = sleeping();
    fs::write(bundle.at("data"), "data").unwrap();
    fs::write(bundle.at("garbage"), "garbage").unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(bundle.at("garbage"), executable).unwrap();
    let mut running = bundle.start();
    for (program, message, status) in [
        (
            "nothing",
            r#"exec: "nothing": executable file not found in $PATH"#,
            127,
        ),
        (
            "/no/such",
            r#"exec: "/no/such": no such file or directory"#,
            127,
        ),
        ("/data", r#"exec: "/data": permission denied"#, 126),
        ("/garbage", r#"exec: "/garbage": exec format error"#, 126),
    ] {
        let found = error(&bundle, &mut running, &process(&bundle, json!([program])));
        assert_eq!(found, (message.to_owned(), status));
    }
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

fn a_directory_that_is_not_there_is_told_of() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    let mut process = shell(&bundle, "true");
    process["cwd"] = json!("/not/there");
    let (message, status) = error(&bundle, &mut running, &process);
    assert!(
        message.contains("process.cwd /not/there: No such file"),
        "{message}"
    );
    assert_eq!(status, 1);
    assert!(!bundle.at("not").exists());
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

fn it_is_in_the_containers_cgroup() -> Result<(), Skipped> {
    let bundle = Bundle::new("cat /proc/self/cgroup; sleep 60");
    let mut running = bundle.start();
    running.wait_for("0::");
    let seen = output(&bundle, &mut running, "cat /proc/self/cgroup");
    assert_eq!(running.stdout(), seen);
    Ok(())
}

fn it_can_be_in_a_cgroup_below() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    for cgroup in running.container().cgroup().unwrap().paths() {
        let below = cgroup.join("below");
        fs::create_dir(&below).unwrap();
        // On version 1 a new one has neither, and nothing can be in it.
        for list in ["cpuset.cpus", "cpuset.mems"] {
            if !cgroup.join("cgroup.events").exists() && cgroup.join(list).exists() {
                fs::write(below.join(list), fs::read(cgroup.join(list)).unwrap()).unwrap();
            }
        }
    }
    let process = shell(&bundle, "grep ^0:: /proc/self/cgroup");
    let seen = run_with(&bundle, &mut running, &process, |options| {
        options.cgroups = Vec::leak(vec![("", Path::new("/below"))]);
    });
    assert!(seen.stdout.ends_with("/below\n"), "{seen:?}");
    for (path, message) in [
        ("nowhere", "/nowhere: No such"),
        ("../..", "linux.cgroupsPath \"../..\": "),
    ] {
        let mut options = ExecOptions::new(null_stdio());
        let below = [("", Path::new(path))];
        options.cgroups = &below;
        let result = start(&bundle, running.container(), &process, options);
        let error = describe(&result.unwrap_err());
        assert!(error.contains(message), "{error}");
    }
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

fn it_ends_with_the_container() -> Result<(), Skipped> {
    let bundle = sleeping();
    let mut running = bundle.start();
    let options = ExecOptions::new(null_stdio());
    let process = shell(&bundle, "sleep 61");
    let executed = start(&bundle, running.container(), &process, options).unwrap();
    running.container().signal(libc::SIGKILL).unwrap();
    assert_eq!(wait(&executed), 137);
    assert_eq!(running.wait().status, 137);
    Ok(())
}

fn a_container_that_waits_to_be_started_takes_one() -> Result<(), Skipped> {
    let bundle = Bundle::new("cat /made");
    let mut running = bundle.created();
    output(&bundle, &mut running, "echo before > /made");
    running.container().start().unwrap();
    assert_eq!(running.wait().stdout, "before\n");
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
    // Whatever numbers the engine's own descriptors have by then.
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
    // The last one is that of the directory being listed.
    assert_eq!(run(&bundle, &mut running, &list).stdout, "0\n1\n2\n3\n");

    // As a caller does that hands on what it got.
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

/// Starts a process in a container from an engine of its own, which leaves it running.
pub(crate) fn exec_and_leave(mut words: std::iter::Skip<std::env::Args>) -> ExitCode {
    let bundle = PathBuf::from(words.next().unwrap());
    let handle = serde_json::from_str(&words.next().unwrap()).unwrap();
    let spec = config::load(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    let mut process = serde_json::to_value(spec.process()).unwrap();
    process["args"] = json!(["/script"]);
    let process: Process = serde_json::from_value(process).unwrap();
    let container = Container::attach(handle, &bundle).unwrap();
    let executed = container.exec(&spec, &process, ExecOptions::new(null_stdio()));
    executed.unwrap();
    ExitCode::SUCCESS
}

/// As [`exec_and_leave`], from where the workload can't get hold of the engine.
pub(crate) fn exec_protected(words: std::iter::Skip<std::env::Args>) -> ExitCode {
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
        let _ = fs::remove_file(bundle.at("result"));
        fs::write(&engine, &original).unwrap();
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
        let mut run = Command::new(&engine);
        let run = run.arg(part).arg(bundle.write()).arg(&handle).status();
        assert!(run.unwrap().success());
        let result = || fs::read_to_string(bundle.at("result")).unwrap_or_default();
        wait_until(|| result().ends_with("done\n"));
        assert_eq!(
            fs::read(&engine).unwrap() != original,
            overwritten,
            "{}",
            result()
        );
        assert_eq!(result().contains("Read-only file system"), !overwritten);
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

/// Descriptors so that none below `number` is free.
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
