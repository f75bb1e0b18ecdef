//! The settings of `process` in `config.json`.

use std::fs;
use std::process::Command;

use nacre_tests::{Case, Isolation, Running};
use serde_json::json;

use super::status::own_namespaces_but;

nacre_tests::tests![
    arguments_arrive_as_they_are,
    the_environment_is_exactly_the_given_one,
    the_program_is_found_in_path,
    the_working_directory,
    user_groups_and_umask,
    capabilities_of_root,
    capabilities_of_a_user_in_all_five_sets,
    resource_limits,
    what_has_no_limit_has_the_callers,
    no_new_privileges,
    oom_score,
    orphans_are_reaped: Vm,
    cpus_of_a_later_process,
    nothing_else_is_open,
];

fn arguments_arrive_as_they_are(case: &Case) {
    let arguments = [
        "",
        " ",
        "a b",
        "'\"$HOME`",
        "two\nlines",
        "*",
        "äöü ☃",
        "-n",
    ];
    let bundle = case
        .busybox()
        .args(["printf", "<%s>"].into_iter().chain(arguments));
    let expected: String = arguments.iter().map(|a| format!("<{a}>")).collect();
    assert_eq!(case.run(&bundle).ok(), expected);
}

fn the_environment_is_exactly_the_given_one(case: &Case) {
    let environment = [
        "PATH=/bin",
        "A=1",
        "EMPTY=",
        "SPACES=a  b",
        "HOME=/elsewhere",
    ];
    let bundle = case
        .busybox()
        // Of two values the later one counts.
        .set("/process/env", json!([&["A=0"][..], &environment].concat()))
        .args(["env"]);
    let output = case.run(&bundle).ok();
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    let mut expected = environment;
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

fn the_program_is_found_in_path(case: &Case) {
    let bundle = case
        .busybox()
        .set("/process/env", json!(["PATH=/nowhere:/elsewhere/bin"]))
        .args(["theirs"]);
    let directory = bundle.rootfs().join("elsewhere/bin");
    std::fs::create_dir_all(&directory).unwrap();
    // It is a script, so that its interpreter is looked up too.
    let script = directory.join("theirs");
    std::fs::write(&script, "#!/bin/sh\necho found $0\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    assert_eq!(case.run(&bundle).ok(), "found /elsewhere/bin/theirs\n");
}

fn the_working_directory(case: &Case) {
    let bundle = case
        .busybox()
        .set("/process/cwd", "/usr/share/here")
        .args(["pwd"]);
    std::fs::create_dir_all(bundle.rootfs().join("usr/share/here")).unwrap();
    assert_eq!(case.run(&bundle).ok(), "/usr/share/here\n");
}

fn user_groups_and_umask(case: &Case) {
    let shows = "grep -E '^(Uid|Gid|Groups):' /proc/self/status; umask; id -G";
    assert_eq!(
        case.run(&case.busybox().shell(shows)).ok(),
        "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n0022\n0\n"
    );
    let bundle = case
        .busybox()
        .set(
            "/process/user",
            json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 2000], "umask": 0o027 }),
        )
        .shell(shows);
    assert_eq!(
        case.run(&bundle).ok(),
        "Uid:\t1000\t1000\t1000\t1000\nGid:\t1001\t1001\t1001\t1001\n\
         Groups:\t5 2000 \n0027\n1001 5 2000\n"
    );
}

/// The bits of capabilities, as in `/proc/self/status` (capabilities(7)).
const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;

/// Returns what the workload finds in the five sets: inheritable, permitted, effective, bounding,
/// ambient.
fn seen_capabilities(case: &Case, uid: u32, sets: serde_json::Value) -> Vec<u64> {
    let bundle = case
        .busybox()
        .set("/process/user/uid", uid)
        .set("/process/capabilities", sets)
        .args(["grep", "^Cap", "/proc/self/status"]);
    let output = case.run(&bundle).ok();
    let names = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
    output
        .lines()
        .zip(names)
        .map(|(line, name)| {
            let bits = line.strip_prefix(name).unwrap_or_else(|| panic!("{line}"));
            u64::from_str_radix(bits.trim(), 16).unwrap()
        })
        .collect()
}

fn capabilities_of_root(case: &Case) {
    let given = json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]);
    let sets = json!({ "bounding": given, "permitted": given, "effective": given });
    // An exec by root gives what the bounding set allows.
    let given = CHOWN | SYS_ADMIN;
    assert_eq!(
        seen_capabilities(case, 0, sets),
        [0, given, given, given, 0]
    );
}

fn capabilities_of_a_user_in_all_five_sets(case: &Case) {
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "inheritable": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    // An exec by any other user keeps the ambient set.
    assert_eq!(
        seen_capabilities(case, 1000, sets),
        [CHOWN | KILL, KILL, KILL, CHOWN | KILL | NET_RAW, KILL]
    );
    assert_eq!(seen_capabilities(case, 1000, json!({})), [0; 5]);
}

fn resource_limits(case: &Case) {
    let limits = json!([
        { "type": "RLIMIT_NOFILE", "soft": 512, "hard": 4096 },
        { "type": "RLIMIT_CORE", "soft": 0, "hard": 1_048_576 },
        { "type": "RLIMIT_NPROC", "soft": 77, "hard": 78 },
        { "type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000 },
        { "type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 4_194_304 },
    ]);
    let bundle = case
        .busybox()
        .set("/process/rlimits", limits)
        .args(["cat", "/proc/self/limits"]);
    let output = case.run(&bundle).ok();
    let limit = |name: &str| {
        let line = output.lines().find(|l| l.starts_with(name)).unwrap();
        let rest = &line[name.len()..];
        let mut words = rest.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    };
    let pair = |soft: &str, hard: &str| (soft.to_owned(), hard.to_owned());
    assert_eq!(limit("Max open files"), pair("512", "4096"));
    assert_eq!(limit("Max core file size"), pair("0", "1048576"));
    assert_eq!(limit("Max processes"), pair("77", "78"));
    assert_eq!(limit("Max file size"), pair("1000000", "2000000"));
    assert_eq!(limit("Max stack size"), pair("1048576", "4194304"));
}

/// Returns a command that is started with these limits.
fn limited(case: &Case, limits: &[&str], command: &Command) -> Running {
    let mut limited = case.mark(Command::new("prlimit"));
    limited
        .args(limits)
        .arg(command.get_program())
        .args(command.get_args());
    case.spawn(limited)
}

fn what_has_no_limit_has_the_callers(case: &Case) {
    let shows = "echo $(ulimit -Su) $(ulimit -Hu) $(ulimit -Sc) $(ulimit -Sn) $(ulimit -Hn)";
    let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 4096 }]);
    let bundle = case
        .busybox()
        .set("/process/rlimits", limits)
        .shell(&format!("{shows}; echo ready; exec sleep 1000"));
    let mut command = case.nacre();
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let limits = ["--nproc=4321:54321", "--core=0:4096"];
    let mut running = limited(case, &limits, &command);
    assert_eq!(running.wait_for_line("ready"), "4321 54321 0 512 4096\n");
    let mut command = case.nacre();
    command.args(["exec", case.id(), "sh", "-c", shows]);
    let executed = limited(case, &["--nproc=77:78"], &command).finish().ok();
    assert!(
        executed.starts_with("77 ") && executed.ends_with(" 512 4096\n"),
        "{executed}"
    );
    case.command(&["kill", case.id(), "KILL"]).ok();
    running.finish().expect(137);
}

fn no_new_privileges(case: &Case) {
    for (asked, seen) in [(true, "1"), (false, "0")] {
        let bundle = case.busybox().set("/process/noNewPrivileges", asked).args([
            "grep",
            "^NoNewPrivs",
            "/proc/self/status",
        ]);
        assert_eq!(case.run(&bundle).ok(), format!("NoNewPrivs:\t{seen}\n"));
    }
}

fn oom_score(case: &Case) {
    let bundle = case
        .busybox()
        .set("/process/oomScoreAdj", 321)
        .args(["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(case.run(&bundle).ok(), "321\n");
}

fn orphans_are_reaped(case: &Case) {
    // Without a pid namespace, orphans become children of the guest's init; on the host they become
    // children of its init, which isn't ours.
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        // A zombie still has its name.
        .shell(
            "i=0; while [ $i -lt 50 ]; do (sleep 0.01 & ) ; i=$((i+1)); done
             i=0; while grep -q '^Name:.sleep' /proc/[0-9]*/status 2>/dev/null && [ $i -lt 500 ]
             do sleep 0.1; i=$((i+1)); done
             grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l",
        );
    assert_eq!(case.run(&bundle).ok(), "0\n");
}

/// The last of the CPUs that the test may run on; in a VM with one CPU it is that one.
fn cpus_of_a_later_process(case: &Case) {
    const FIELD: &str = "Cpus_allowed_list:\t";
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix(FIELD));
    let last = list.unwrap().rsplit([',', '-']).next().unwrap();
    case.idle();
    let process = json!({
        "args": ["grep", FIELD.trim_end(), "/proc/self/status"],
        "env": ["PATH=/bin"], "cwd": "/", "user": { "uid": 0, "gid": 0 },
        "execCPUAffinity": { "initial": last, "final": last },
    });
    let file = case.directory().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let outcome = case.command(&["exec", "--process", file.to_str().unwrap(), case.id()]);
    let cpu = match case.isolation() {
        Isolation::Process => last,
        Isolation::Vm => "0",
    };
    assert_eq!(outcome.ok(), format!("{FIELD}{cpu}\n"));
    case.remove_container();
}

fn nothing_else_is_open(case: &Case) {
    // The fourth is the directory that is being listed.
    let bundle = case.busybox().args(["ls", "/proc/self/fd"]);
    assert_eq!(case.run(&bundle).ok(), "0\n1\n2\n3\n");
}
