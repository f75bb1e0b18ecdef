//! `nacre exec`: one more process in a container.

use std::fs;
use std::io::Write;

use nacre_tests::Isolation::{Process, Vm};
use nacre_tests::{Case, Outcome, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::flags::with_descriptor_3;

nacre_tests::tests![
    streams_and_status,
    standard_input_arrives,
    it_is_where_the_container_is,
    what_is_said_of_the_process_is_inherited,
    working_directory_and_environment,
    user_and_groups,
    capabilities,
    capabilities_of_an_ordinary_user,
    no_new_privileges,
    a_process_in_a_document,
    a_program_that_isnt_there,
    any_other_failure,
    detached,
    signals_are_passed_on,
    the_containers_end_is_its_end,
    its_end_isnt_the_containers,
    it_outlives_its_input,
    much_through_its_streams,
    a_detached_one_is_killed_by_its_pid,
    in_what_is_created_but_not_in_what_has_ended,
    in_a_paused_container,
    further_descriptors: Process,
    no_further_descriptors_in_a_vm: Vm,
    nothing_else_is_open,
    a_cgroup_below: Process,
    a_cgroup_below_in_the_guest: Vm,
    no_profile_or_label_in_silence,
    many_at_once,
];

/// `nacre exec` with flags and a command.
fn exec(case: &Case, flags: &[&str], command: &[&str]) -> Outcome {
    let mut words = vec!["exec"];
    words.extend(flags);
    words.push(case.id());
    words.extend(command);
    case.command(&words)
}

/// The same with a shell script, which must go well.
#[track_caller]
fn shell(case: &Case, flags: &[&str], script: &str) -> String {
    exec(case, flags, &["/bin/sh", "-c", script]).ok()
}

fn streams_and_status(case: &Case) {
    case.idle();
    for status in [0, 1, 42, 255] {
        let script = format!("echo out; echo err >&2; exit {status}");
        let outcome = exec(case, &[], &["sh", "-c", &script]);
        assert_eq!(outcome.expect(status), "out\n");
        assert_eq!(outcome.stderr, "err\n");
    }
    exec(case, &[], &["sh", "-c", "kill -9 $$"]).expect(137);
    // Flags behind the command are the command's.
    assert_eq!(exec(case, &[], &["echo", "-t", "--cwd"]).ok(), "-t --cwd\n");
    case.remove_container();
}

fn standard_input_arrives(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    command.args(["exec", case.id(), "wc", "-c"]);
    let mut running = case.spawn(command);
    let bytes = vec![b'x'; 300_000];
    running.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert_eq!(running.finish().ok(), "300000\n");
    case.remove_container();
}

fn it_is_where_the_container_is(case: &Case) {
    let pid = case.idle();
    let kinds = ["ipc", "uts", "net", "pid", "mnt", "cgroup", "user"];
    let namespaces = |process: &str| {
        let each = "for n in ipc uts net pid mnt cgroup user; do readlink";
        shell(case, &[], &format!("{each} /proc/{process}/ns/$n; done"))
    };
    let output = namespaces("self");
    assert_eq!(output, namespaces("1"));
    for (kind, inside) in kinds.iter().zip(output.lines()) {
        if case.isolation() == Process {
            let of_init = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(of_init.to_str(), Some(inside));
        }
    }
    let output = shell(
        case,
        &[],
        "hostname; ls /proc/1/exe; cat /proc/self/cgroup; ls /",
    );
    assert!(output.starts_with("nacre\n"), "{output}");
    let init = shell(case, &[], "cat /proc/1/cgroup");
    assert!(output.contains(&init), "{output} isn't where {init} is");
    case.remove_container();
}

fn what_is_said_of_the_process_is_inherited(case: &Case) {
    let bundle = case
        .busybox()
        .set("/process/env", json!(["PATH=/bin", "FROM=config"]))
        .set("/process/cwd", "/tmp")
        .set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 99 }]),
        )
        .args(["sleep", "1000"]);
    case.detach(&bundle);
    let script = "pwd; echo $FROM; ulimit -n; grep -E '^(NoNewPrivs|CapEff)' /proc/self/status";
    let output = shell(case, &[], script);
    let lines: Vec<&str> = output.lines().collect();
    // CAP_AUDIT_WRITE, CAP_KILL and CAP_NET_BIND_SERVICE.
    let expected = [
        "/tmp",
        "config",
        "99",
        "CapEff:\t0000000020000420",
        "NoNewPrivs:\t1",
    ];
    assert_eq!(lines, expected);
    case.remove_container();
}

fn working_directory_and_environment(case: &Case) {
    let bundle = case
        .busybox()
        .push("/process/env", "OVERRIDDEN=no")
        .args(["sleep", "1000"]);
    case.detach(&bundle);
    let flags = [
        "--cwd",
        "/etc",
        "--env",
        "A=one",
        "--env",
        "B=two words",
        "--env",
        "OVERRIDDEN=yes",
    ];
    let output = shell(case, &flags, "pwd; echo $A; echo $B; echo $OVERRIDDEN");
    assert_eq!(output, "/etc\none\ntwo words\nyes\n");
    exec(case, &["--cwd", "/etc/passwd"], &["true"]).refused_somehow();
    case.remove_container();
}

fn user_and_groups(case: &Case) {
    case.idle();
    let seen = "id -u; id -g; grep ^Groups: /proc/self/status";
    let flags = [
        "--user",
        "1000:1001",
        "--additional-gids",
        "5",
        "--additional-gids",
        "2000",
    ];
    assert_eq!(shell(case, &flags, seen), "1000\n1001\nGroups:\t5 2000 \n");
    assert_eq!(shell(case, &["--user", "1000"], "id -u"), "1000\n");
    for user in ["root", "1:x"] {
        exec(case, &["--user", user], &["true"]).refused_somehow();
    }
    case.remove_container();
}

fn capabilities(case: &Case) {
    case.idle();
    let seen = ["grep", "^CapEff", "/proc/self/status"];
    let flags = ["--cap", "CAP_NET_ADMIN", "--cap", "CAP_SYS_PTRACE"];
    let output = exec(case, &flags, &seen).ok();
    let bits = u64::from_str_radix(output.trim_start_matches("CapEff:").trim(), 16).unwrap();
    assert_eq!(bits & (1 << 12 | 1 << 19), 1 << 12 | 1 << 19, "{output}");
    case.remove_container();
}

/// Who isn't root has what is ambient, and a flag adds nothing to that.
fn capabilities_of_an_ordinary_user(case: &Case) {
    let held = json!(["CAP_NET_BIND_SERVICE"]);
    let sets = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    let bundle = sets.into_iter().fold(case.busybox(), |bundle, set| {
        bundle.set(&format!("/process/capabilities/{set}"), held.clone())
    });
    case.detach(&bundle.args(["sleep", "1000"]));
    let seen = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status";
    let flags = ["--user", "1000", "--cap", "CAP_SYSLOG"];
    let output = shell(case, &flags, seen);
    for line in output.lines() {
        assert!(line.ends_with("\t0000000000000400"), "{output}");
    }
    assert_eq!(output.lines().count(), 4, "{output}");
    case.remove_container();
}

fn no_new_privileges(case: &Case) {
    let bundle = case
        .busybox()
        .set("/process/noNewPrivileges", false)
        .args(["sleep", "1000"]);
    case.detach(&bundle);
    let script = "grep ^NoNewPrivs /proc/self/status";
    assert_eq!(shell(case, &[], script), "NoNewPrivs:\t0\n");
    assert_eq!(shell(case, &["--no-new-privs"], script), "NoNewPrivs:\t1\n");
    case.remove_container();
}

/// A process as callers like containerd describe it.
fn document(case: &Case, script: &str) -> String {
    let process = json!({
        "terminal": false,
        "user": { "uid": 7, "gid": 8, "additionalGids": [9] },
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin", "ONLY=this"],
        "cwd": "/tmp",
        "capabilities": { "bounding": ["CAP_CHOWN"] },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 78 }],
        "noNewPrivileges": true,
        "oomScoreAdj": 100,
    });
    let path = case.directory().join("process.json");
    fs::write(&path, process.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn a_process_in_a_document(case: &Case) {
    case.idle();
    let path = document(
        case,
        "id -u; id -g; pwd; env | grep -v -E '^(PWD|SHLVL|HOME)='; ulimit -n
         cat /proc/self/oom_score_adj; grep ^CapBnd /proc/self/status; exit 5",
    );
    for flag in ["--process", "-p"] {
        let outcome = exec(case, &[flag, &path], &[]);
        let expected = "7\n8\n/tmp\nPATH=/bin\nONLY=this\n77\n100\nCapBnd:\t0000000000000001\n";
        let mut seen: Vec<String> = outcome.expect(5).lines().map(str::to_owned).collect();
        let mut expected: Vec<&str> = expected.lines().collect();
        seen.sort();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
    for bad in [
        "",
        "{}",
        "[]",
        "{\"args\": []}",
        "{\"args\": [\"true\"], \"cwd\": \"here\"}",
    ] {
        fs::write(&path, bad).unwrap();
        exec(case, &["--process", &path], &[]).refused_somehow();
    }
    exec(case, &["--process", "/no/such/file"], &[]).refused_somehow();
    exec(case, &[], &[]).refused_somehow();
    case.remove_container();
}

fn a_program_that_isnt_there(case: &Case) {
    case.idle();
    let message = exec(case, &[], &["nonesuch"]).refused(127);
    let not_found = "\"nonesuch\": executable file not found in $PATH";
    assert!(message.contains(not_found), "{message}");
    let message = exec(case, &[], &["/no/such"]).refused(127);
    assert!(message.contains("no such file or directory"), "{message}");
    let message = exec(case, &[], &["/etc/passwd"]).refused(126);
    assert!(message.contains("permission denied"), "{message}");
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn any_other_failure(case: &Case) {
    case.idle();
    for flags in [
        ["--user", "nobody"],
        ["--cwd", "/no/such"],
        ["--pid-file", "/no/such/file"],
        ["--detach", "--tty"],
        ["--detach", "--pid-file=/no/such/file"],
    ] {
        exec(case, &flags, &["true"]).refused(255);
    }
    let none = format!("{}-none", case.id());
    let message = case.command(&["exec", &none, "true"]).refused(255);
    assert!(message.contains("container does not exist"), "{message}");
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn detached(case: &Case) {
    case.idle();
    let file = case.directory().join("exec-pid");
    let mut command = case.nacre();
    command
        .args(["exec", "--detach", "--pid-file"])
        .arg(&file)
        .args([case.id(), "sh", "-c", "echo runs; exec sleep 1000"]);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    case.wait_for_output("runs");
    let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    // It says that it runs before it becomes another program.
    case.wait_for("the program to be sleep", || {
        let table = case.command(&["ps", case.id(), "-o", "pid,args"]).ok();
        table.matches("sleep 1000").count() == 2
    });
    // In a VM it is that of a process that stands for the guest's.
    if case.isolation() == Process {
        let outcome = case.command(&["ps", "--format", "json", case.id()]);
        let pids: Value = serde_json::from_str(&outcome.ok()).unwrap();
        let pids = pids.as_array().unwrap();
        assert_eq!(pids.len(), 2, "{pids:?}");
        assert!(pids.contains(&pid.into()), "{pids:?}");
    }

    // A pid file isn't only for those.
    fs::remove_file(&file).unwrap();
    let flags = ["--pid-file", file.to_str().unwrap()];
    exec(case, &flags, &["true"]).expect(0);
    let again: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    assert_ne!(again, pid);
    case.remove_container();
}

fn signals_are_passed_on(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    let script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready
                  while :; do sleep 0.02; done";
    command.args(["exec", case.id(), "sh", "-c", script]);
    let mut running = case.spawn(command);
    running.wait_for_line("ready");
    running.signal(Signal::SIGUSR1);
    running.wait_for_line("usr1");
    running.signal(Signal::SIGTERM);
    running.wait_for_line("term");
    running.finish().expect(9);
    case.remove_container();
}

fn the_containers_end_is_its_end(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    command.args(["exec", case.id(), "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut running = case.spawn(command);
    running.wait_for_line("ready");
    case.command(&["kill", case.id(), "KILL"]).ok();
    running.finish().expect(137);
    case.wait_for_status("stopped");
    case.remove_container();
}

fn its_end_isnt_the_containers(case: &Case) {
    let pid = case.idle();
    // What it leaves behind stays until the container ends.
    shell(case, &[], "sleep 1000 >/dev/null 2>&1 </dev/null & exit 0");
    assert_eq!(case.inspect()["pid"], pid.as_raw());
    assert!(shell(case, &[], "ps").matches("sleep 1000").count() == 2);
    case.remove_container();
}

fn it_outlives_its_input(case: &Case) {
    case.idle();
    let mut command = case.nacre();
    let script = "cat; echo the end; sleep 0.5; echo later; exit 4";
    command.args(["exec", case.id(), "sh", "-c", script]);
    let mut running = case.spawn(command);
    running.stdin.take().unwrap().write_all(b"input\n").unwrap();
    assert_eq!(running.finish().expect(4), "input\nthe end\nlater\n");
    // Nor does it need any output.
    let mut command = case.nacre();
    let script = "exec >&- 2>&-; sleep 0.2; exit 6";
    command.args(["exec", case.id(), "sh", "-c", script]);
    case.spawn(command).finish().expect(6);
    case.remove_container();
}

fn much_through_its_streams(case: &Case) {
    case.idle();
    let path = case.directory().join("much");
    let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i * 7 / 3) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    let mut command = case.nacre();
    command.args(["exec", case.id(), "cat"]);
    let out = case.directory().join("out");
    command
        .stdin(fs::File::open(&path).unwrap())
        .stdout(fs::File::create(&out).unwrap());
    assert!(command.status().unwrap().success());
    assert!(fs::read(&out).unwrap() == bytes);
    case.remove_container();
}

fn a_detached_one_is_killed_by_its_pid(case: &Case) {
    case.idle();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let file = case.directory().join("exec-pid");
        let mut command = case.nacre();
        command
            .args(["exec", "--detach", "--pid-file"])
            .arg(&file)
            .args([case.id(), "sleep", "1234"]);
        assert_eq!(case.leave(command), 0, "{}", case.output());
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        let is_there = || {
            let table = case.command(&["ps", case.id(), "-o", "pid,args"]).ok();
            table.contains("sleep 1234")
        };
        case.wait_for("the process to run", is_there);
        kill(Pid::from_raw(pid), signal).unwrap();
        case.wait_for("the process to end", || !is_there());
    }
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn no_further_descriptors_in_a_vm(case: &Case) {
    case.idle();
    let message = exec(case, &["--preserve-fds", "1"], &["true"]).refused(255);
    assert!(message.contains("--preserve-fds"), "{message}");
    case.remove_container();
}

fn a_cgroup_below_in_the_guest(case: &Case) {
    let bundle = case
        .busybox()
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
        .args(["sleep", "1000"]);
    case.detach(&bundle);
    shell(case, &[], "mkdir /sys/fs/cgroup/below");
    let output = shell(case, &["--cgroup", "below"], "cat /proc/self/cgroup");
    assert_eq!(output, "0::/below\n");
    for bad in ["no-such", "../.."] {
        exec(case, &["--cgroup", bad], &["true"]).refused_somehow();
    }
    case.remove_container();
}

fn in_what_is_created_but_not_in_what_has_ended(case: &Case) {
    case.create(&case.busybox().shell("echo the first; sleep 1000"));
    // It has namespaces already.
    assert_eq!(exec(case, &[], &["hostname"]).ok(), "nacre\n");
    case.command(&["start", case.id()]).ok();
    case.wait_for_output("the first");
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    exec(case, &[], &["true"]).refused_somehow();
    case.remove_container();
}

fn in_a_paused_container(case: &Case) {
    case.idle();
    case.command(&["pause", case.id()]).ok();
    exec(case, &[], &["true"]).refused_somehow();
    // It waits with the others.
    let mut command = case.nacre();
    command.args(["exec", "--ignore-paused", case.id(), "echo", "at last"]);
    let mut running = case.spawn(command);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(running.is_running());
    case.command(&["resume", case.id()]).ok();
    assert_eq!(running.finish().ok(), "at last\n");
    case.remove_container();
}

fn further_descriptors(case: &Case) {
    case.idle();
    let path = case.directory().join("further");
    fs::write(&path, "from descriptor 3\n").unwrap();
    let file = fs::File::open(&path).unwrap();
    let mut command = case.nacre();
    command.args(["exec", "--preserve-fds", "1", case.id()]);
    command.args(["sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"]);
    let command = with_descriptor_3(command, &file);
    // Three streams, the further one, and the directory that is being listed.
    assert_eq!(case.spawn(command).finish().ok(), "from descriptor 3\n5\n");
    case.remove_container();
}

fn nothing_else_is_open(case: &Case) {
    case.idle();
    assert_eq!(
        exec(case, &[], &["ls", "/proc/self/fd"]).ok(),
        "0\n1\n2\n3\n"
    );
    case.remove_container();
}

fn a_cgroup_below(case: &Case) {
    case.idle();
    // With version 1 there is one in each hierarchy.
    for path in leftovers::cgroups_named(case.id()) {
        let below = path.join("below");
        fs::create_dir(&below).unwrap();
        // Which with version 1 has no CPUs at first, and can't be entered without.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            if !case.has_cgroup2() && path.join(name).exists() {
                fs::copy(path.join(name), below.join(name)).unwrap();
            }
        }
    }
    let output = shell(case, &["--cgroup", "below"], "cat /proc/self/cgroup");
    assert!(
        output.lines().any(|line| line.ends_with("/below")),
        "{output}"
    );
    for bad in ["no-such", "../..", "/../.."] {
        exec(case, &["--cgroup", bad], &["true"]).refused_somehow();
    }
    case.remove_container();
}

fn no_profile_or_label_in_silence(case: &Case) {
    case.idle();
    let enabled = |module: &str| {
        fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains(module))
    };
    // A guest has neither.
    if !enabled("apparmor") || case.isolation() == Vm {
        exec(case, &["--apparmor", "some-profile"], &["true"]).refused_somehow();
    }
    if (!enabled("selinux") || case.isolation() == Vm) && !nacre_tests::nacre::is_reference() {
        exec(case, &["--process-label", "a_u:b_r:c_t:s0"], &["true"]).refused_somehow();
    }
    case.remove_container();
}

/// What each writes is longer than a pipe or a window holds.
fn many_at_once(case: &Case) {
    let pid = case.idle();
    exec(case, &[], &["true"]).ok();
    // Of a VM's sandbox process, which has one for each stream.
    let sockets = || {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:"));
        sockets.count()
    };
    let before = sockets();
    std::thread::scope(|scope| {
        for n in 0..50 {
            scope.spawn(move || {
                let script = format!("yes line {n} | head -n 20000; exit {n}");
                let outcome = exec(case, &[], &["sh", "-c", &script]);
                let expected = format!("line {n}\n").repeat(20_000);
                assert!(
                    outcome.expect(n) == expected,
                    "{n}: {:?}",
                    outcome.stdout.len()
                );
            });
        }
    });
    case.wait_for("the end of their streams", || sockets() == before);
    let listed = exec(case, &[], &["ls", "/proc"]).ok();
    let processes = listed.lines().filter(|name| name.parse::<u32>().is_ok());
    // The first and the one that lists them.
    assert_eq!(processes.count(), 2, "{listed}");
    case.remove_container();
}
