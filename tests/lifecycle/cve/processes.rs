//! Programs, and what a process is given: the runtime's own file, its descriptors, kernel
//! parameters, capabilities and users.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nacre_tests::{Case, Isolation, nacre};
use serde_json::json;

use super::{Outside, SECRET, assert_refused, with_capabilities};

nacre_tests::tests![
    // In a VM the runtime's file is the guest's agent, of which each guest has its own.
    cve_2019_5736_the_runtimes_program_cannot_be_overwritten: Process,
    cve_2022_0811_a_sysctl_is_one_of_a_namespace_and_has_one_value,
    cve_2022_29162_no_capability_is_inheritable,
    cve_2024_21626_no_descriptor_is_a_working_directory,
    cve_2024_21626_no_descriptor_leads_to_a_program,
    cve_2024_21626_nor_for_exec,
    cve_2026_30892_the_user_of_exec_is_who_was_named,
];

/// Returns the descriptor numbers that are tried.
fn descriptors(case: &Case) -> Vec<u32> {
    match case.isolation() {
        Isolation::Process => (3..=20).collect(),
        Isolation::Vm => vec![3, 5, 7, 9, 12],
    }
}

/// The container executes the runtime itself, by `/proc/self/exe`, which waits at a FIFO for its
/// log. Meanwhile another process opens the runtime's file, and writes to it once nobody executes
/// it any more. If that worked, the process would print `OVERWRITTEN`, and the file's content would
/// differ.
fn cve_2019_5736_the_runtimes_program_cannot_be_overwritten(case: &Case) {
    let program = case.directory().join("nacre");
    fs::copy(nacre::runtime(), &program).unwrap();
    let before = fs::read(&program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = case.mark(Command::new(&program));
        command.args(case.nacre().get_args()).args(arguments);
        command
    };
    let bundle = with_capabilities(
        case.busybox().shell(
            "mkfifo /fifo; echo ready
             while :; do
               for exe in /proc/[0-9]*/exe; do
                 case \"$(readlink $exe)\" in ''|/bin/busybox) continue;; esac
                 exec 9<$exe || continue
                 echo OPENED; cat /fifo >/dev/null; i=0
                 while [ $i -lt 100 ]; do
                   (echo evil >/proc/self/fd/9) 2>/dev/null && echo OVERWRITTEN && break
                   i=$((i + 1)); sleep 0.02
                 done
                 exec 9<&-; echo TRIED
               done
             done",
        ),
        &["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE"],
    );
    symlink("/proc/self/exe", bundle.rootfs().join("bin/entry")).unwrap();
    let directory = bundle.write().to_str().unwrap().to_owned();
    let left = case.leave(run(&["run", "--detach", "--bundle", &directory, case.id()]));
    assert_eq!(left, 0, "{}", case.output());
    case.wait_for_output("ready");
    for (turn, program) in ["/proc/self/exe", "/bin/entry"].into_iter().enumerate() {
        let command = run(&["exec", case.id(), program, "--log=/fifo", "list"]);
        case.spawn(command).finish();
        // The attack must have been tried.
        case.wait_for("attack", || case.output().matches("TRIED").count() > turn);
        assert!(!case.output().contains("OVERWRITTEN"), "{}", case.output());
    }
    assert!(
        fs::read(&program).unwrap() == before,
        "the program was changed"
    );
    let mut delete = case.nacre();
    delete.args(["delete", "--force", case.id()]);
    case.spawn(delete).finish().expect(0);
}

/// A parameter's value carries another, global parameter of the kernel behind a `+`; or the name is
/// that of a global one, however it is written. The host's `core_pattern` would change.
fn cve_2022_0811_a_sysctl_is_one_of_a_namespace_and_has_one_value(case: &Case) {
    let pattern = || fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = pattern();
    for (name, value) in [
        ("kernel.core_pattern", "|/evil"),
        ("kernel/core_pattern", "|/evil"),
        ("net/../kernel/core_pattern", "|/evil"),
        ("net.../kernel.core_pattern", "|/evil"),
        ("net.ipv4.ip_forward=1+kernel.core_pattern", "|/evil"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1,kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1;kernel.core_pattern=|/evil"),
        ("fs.mqueue.msg_max", "+kernel.core_pattern=|/evil#"),
    ] {
        let bundle = case.busybox().set("/linux/sysctl", json!({ name: value }));
        assert_refused(&case.run(&bundle.shell("true")), "linux.sysctl");
        assert_eq!(pattern(), before, "{name}");
    }
}

/// A container's inheritable capabilities aren't empty though nobody asked for them, so that a
/// program with file capabilities gets them back. The mask would have bits set.
fn cve_2022_29162_no_capability_is_inheritable(case: &Case) {
    const LOOK: &str = "grep -E 'Cap(Inh|Amb)' /proc/self/status";
    const NONE: &str = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    assert_eq!(case.run(&case.busybox().shell(LOOK)).ok(), NONE);
    case.idle();
    let outcome = case.command(&["exec", case.id(), "sh", "-c", LOOK]);
    assert_eq!(outcome.ok(), NONE);
    let outcome = case.command(&["exec", "--user", "1000", case.id(), "sh", "-c", LOOK]);
    assert_eq!(outcome.ok(), NONE);
    case.command(&["delete", "--force", case.id()]).expect(0);
}

/// Returns a relative path to a file of the host that works from any directory of the host.
fn upwards(path: &str) -> String {
    format!("{}{}", "../".repeat(12), path.trim_start_matches('/'))
}

/// The working directory is a descriptor of the runtime's for a directory of the host. The
/// container would run, and read the host's file.
fn cve_2024_21626_no_descriptor_is_a_working_directory(case: &Case) {
    let outside = Outside::new(case, &[]);
    let secret = upwards(&format!("{}/secret", outside.text()));
    let bundle = case.busybox().shell(&format!("pwd; cat {secret}"));
    let root = bundle.rootfs();
    for fd in descriptors(case) {
        let link = root.join(format!("link-{fd}"));
        symlink(format!("/proc/self/fd/{fd}"), &link).unwrap();
        for cwd in [
            format!("/proc/self/fd/{fd}"),
            format!("/proc/thread-self/fd/{fd}/"),
            format!("/link-{fd}"),
        ] {
            let outcome = case.run(&bundle.clone().set("/process/cwd", cwd.as_str()));
            assert!(!outcome.text().contains(SECRET), "{cwd}: {outcome:?}");
            assert_ne!(outcome.status(), Some(0), "{cwd}: {outcome:?}");
        }
    }
    outside.assert_untouched();
}

/// Makes a program on the host that prints that it runs.
fn hosts_program(outside: &Outside) -> String {
    let program = outside.path.join("busybox");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox.iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.unwrap(), program).unwrap();
    upwards(outside.text())
}

/// The program is named through a descriptor for a directory of the host, or found there by `PATH`.
/// A file of the host would run, and print `ESCAPED`.
fn cve_2024_21626_no_descriptor_leads_to_a_program(case: &Case) {
    let outside = Outside::new(case, &[]);
    let directory = hosts_program(&outside);
    for fd in descriptors(case) {
        let place = format!("/proc/self/fd/{fd}/{directory}");
        let program = format!("{place}/busybox");
        let by_args = case.busybox().args([&program, "echo", "ESCAPED"]);
        let by_path = case
            .busybox()
            .set("/process/env", json!([format!("PATH={place}")]))
            .args(["busybox", "echo", "ESCAPED"]);
        for (way, bundle) in [("args", by_args), ("PATH", by_path)] {
            let outcome = case.run(&bundle);
            let ran = outcome.text().contains("ESCAPED");
            assert!(!ran, "by {way} and descriptor {fd}: {outcome:?}");
            assert_ne!(outcome.status(), Some(0), "{way} {fd}: {outcome:?}");
        }
    }
}

/// The same is tried for a process that is started later, with its working directory, its program
/// and its `PATH`.
fn cve_2024_21626_nor_for_exec(case: &Case) {
    let outside = Outside::new(case, &[]);
    let directory = hosts_program(&outside);
    let secret = upwards(&format!("{}/secret", outside.text()));
    case.idle();
    for fd in descriptors(case) {
        let place = format!("/proc/self/fd/{fd}/{directory}");
        let (cwd, path) = (format!("/proc/self/fd/{fd}"), format!("PATH={place}"));
        let program = format!("{place}/busybox");
        for words in [
            vec!["exec", "--cwd", &cwd, case.id(), "cat", &secret],
            vec!["exec", case.id(), &program, "echo", "ESCAPED"],
            vec![
                "exec",
                "--env",
                &path,
                case.id(),
                "busybox",
                "echo",
                "ESCAPED",
            ],
        ] {
            let outcome = case.command(&words);
            let text = outcome.text();
            let got_out = text.contains("ESCAPED") || text.contains(SECRET);
            assert!(!got_out, "{words:?}: {outcome:?}");
            assert_ne!(outcome.status(), Some(0), "{words:?}: {outcome:?}");
        }
    }
    case.command(&["delete", "--force", case.id()]).expect(0);
    assert!(outside.path.join("secret").exists());
}

/// `exec --user 1` was read as user 0. The process would be root, or have its capabilities.
fn cve_2026_30892_the_user_of_exec_is_who_was_named(case: &Case) {
    const LOOK: &str = "id -u; id -g; grep CapEff /proc/self/status";
    case.detach(&with_capabilities(
        case.busybox().args(["sleep", "1000"]),
        &["CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"],
    ));
    for (user, uid, gid) in [
        ("1", "1", "0"),
        ("1:2", "1", "2"),
        ("10", "10", "0"),
        ("65534:65534", "65534", "65534"),
        ("4294967294", "4294967294", "0"),
    ] {
        for flag in ["-u", "--user"] {
            let outcome = case.command(&["exec", flag, user, case.id(), "sh", "-c", LOOK]);
            let expected = format!("{uid}\n{gid}\nCapEff:\t0000000000000000\n");
            assert_eq!(outcome.ok(), expected, "{user}");
        }
    }
    // An invalid user is an error, and never taken for root.
    for user in [
        ":",
        "1:",
        ":1",
        "-1",
        "4294967295",
        "4294967296",
        " 1",
        "1x",
        "1:2:3",
    ] {
        let argument = format!("--user={user}");
        let outcome = case.command(&["exec", &argument, case.id(), "sh", "-c", LOOK]);
        assert_ne!(outcome.status(), Some(0), "{user:?}: {outcome:?}");
        assert_eq!(outcome.text(), "", "{user:?}: {outcome:?}");
    }
    case.command(&["delete", "--force", case.id()]).expect(0);
}
