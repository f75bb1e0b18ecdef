//! What the process is given: the container's namespaces and cgroup, a user, rights, descriptors.

use std::fs;
use std::io::Write;

use nacre_tests::Isolation::{Process, Vm};
use nacre_tests::nacre::is_reference;
use nacre_tests::{Case, leftovers};
use serde_json::json;

use super::{exec, shell};
use crate::lifecycle::flags::with_descriptor_3;

nacre_tests::tests![
    it_is_where_the_container_is,
    what_is_said_of_the_process_is_inherited,
    working_directory_and_environment,
    user_and_groups,
    capabilities,
    capabilities_of_an_ordinary_user,
    no_new_privileges,
    a_process_in_a_document,
    further_descriptors: Process,
    no_further_descriptors_in_a_vm: Vm,
    nothing_else_is_open,
    a_cgroup_below: Process,
    a_cgroup_below_in_the_guest: Vm,
    no_profile_or_label_in_silence,
];

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

/// An ordinary user has the ambient capabilities, and a flag adds nothing to them.
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

/// Makes a process document as callers like containerd write it.
fn document(case: &Case, script: &str) -> String {
    let process = json!({
        "terminal": false,
        "user": { "uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o77 },
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/bin", "ONLY=this"],
        "cwd": "/tmp",
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"],
            "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 78 }],
        "noNewPrivileges": true,
        "oomScoreAdj": 100,
        "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 5 },
    });
    let path = case.directory().join("process.json");
    fs::write(&path, process.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn a_process_in_a_document(case: &Case) {
    case.idle();
    let path = document(
        case,
        "id -u; id -g; id -G; umask; pwd; env | grep -v -E '^(PWD|SHLVL|HOME)='; ulimit -n
         grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; cat /proc/self/oom_score_adj
         ionice -p $$; exit 5",
    );
    for flag in ["--process", "-p"] {
        let outcome = exec(case, &[flag, &path], &[]);
        let expected = "7\n8\n8 9\n0077\n/tmp\nPATH=/bin\nONLY=this\n77\n\
                        CapEff:\t0000000000000020\nCapBnd:\t0000000000000021\n\
                        NoNewPrivs:\t1\n100\nbest-effort: prio 5\n";
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
    // The document may be a pipe.
    let path = document(case, "exit 5");
    let mut command = case.nacre();
    command.args(["exec", "--process", "/dev/stdin", case.id()]);
    let mut running = case.spawn(command);
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(&fs::read(path).unwrap()).unwrap();
    drop(stdin);
    running.finish().expect(5);
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
    // Descriptors: three streams, the passed one, and the directory that is being listed.
    assert_eq!(case.spawn(command).finish().ok(), "from descriptor 3\n5\n");
    case.remove_container();
}

fn no_further_descriptors_in_a_vm(case: &Case) {
    case.idle();
    let message = exec(case, &["--preserve-fds", "1"], &["true"]).refused(255);
    assert!(message.contains("--preserve-fds"), "{message}");
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
    // With version 1 there is a cgroup in each hierarchy.
    for path in leftovers::cgroups_named(case.id()) {
        let below = path.join("below");
        fs::create_dir(&below).unwrap();
        // With version 1 it has no CPUs at first, and can't be entered without.
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
    let own = shell(case, &[], "cat /proc/self/cgroup");
    let controller = if case.has_cgroup2() { "/" } else { "cpu:/" };
    for cgroup in ["/", controller] {
        let output = shell(case, &["--cgroup", cgroup], "cat /proc/self/cgroup");
        assert_eq!(output, own);
    }
    for (bad, why) in [
        ("no-such", "/no-such: No such"),
        ("../..", "linux.cgroupsPath \"../..\": "),
        ("/../..", "linux.cgroupsPath \"../..\": "),
    ] {
        let message = exec(case, &["--cgroup", bad], &["true"]).refused(255);
        assert!(is_reference() || message.contains(why), "{message}");
    }
    case.remove_container();
}

fn a_cgroup_below_in_the_guest(case: &Case) {
    let bundle = case
        .busybox()
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
        .args(["sleep", "1000"]);
    case.detach(&bundle);
    shell(case, &[], "mkdir /sys/fs/cgroup/below");
    for (cgroup, expected) in [("below", "0::/below\n"), ("/", "0::/\n")] {
        let output = shell(case, &["--cgroup", cgroup], "cat /proc/self/cgroup");
        assert_eq!(output, expected);
    }
    for bad in ["no-such", "../.."] {
        exec(case, &["--cgroup", bad], &["true"]).refused_somehow();
    }
    case.remove_container();
}

fn no_profile_or_label_in_silence(case: &Case) {
    case.idle();
    let enabled = |module: &str| {
        fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains(module))
    };
    // A guest has neither of them.
    if !enabled("apparmor") || case.isolation() == Vm {
        exec(case, &["--apparmor", "some-profile"], &["true"]).refused_somehow();
    }
    if (!enabled("selinux") || case.isolation() == Vm) && !is_reference() {
        exec(case, &["--process-label", "a_u:b_r:c_t:s0"], &["true"]).refused_somehow();
    }
    case.remove_container();
}
