//! What Podman sets up around a workload: files, users, privileges, namespaces, an init.

use std::fs;
use std::path::Path;

use nacre_tests::client::which;
use nacre_tests::{Case, Isolation};

use super::super::image::{self, DEBIAN};
use super::super::workload::ORPHANS;
use super::Podman;

nacre_tests::tests![
    volumes,
    users_and_privileges,
    a_device,
    an_image_with_a_user,
    namespaces_of_others: Process,
    namespaces_that_a_vm_has_no_part_in: Vm,
    a_user_namespace,
    an_init,
    health_checks,
    an_image_of_debian,
];

fn volumes(case: &Case) {
    let podman = Podman::new(case);
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "of the host\n").unwrap();
    let bind = |options: &str| format!("{}:/data{options}", data.display());
    let script = "cat /data/file; echo new >/data/new";
    let outcome = podman.once(&["-v", &bind(":ro")], &["sh", "-c", script]);
    assert_eq!(outcome.expect(1), "of the host\n");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    podman
        .once(&["-v", &bind("")], &["sh", "-c", script])
        .expect(0);
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    // A named volume outlives its containers.
    podman
        .once(&["-v", "named:/v"], &["sh", "-c", "echo kept >/v/file"])
        .expect(0);
    let output = podman
        .once(&["-v", "named:/v"], &["cat", "/v/file"])
        .expect(0);
    assert_eq!(output, "kept\n");
    let flags = [
        "--tmpfs",
        "/t:size=1m,mode=1777",
        "--mount",
        "type=tmpfs,destination=/u",
    ];
    let script = "stat -c %a /t; df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /u/x; ls /u";
    assert_eq!(
        podman.once(&flags, &["sh", "-c", script]).expect(0),
        "1777\n1024\nx\n"
    );
    podman.ok(&["volume", "rm", "named"]);
    podman.clear();
}

fn users_and_privileges(case: &Case) {
    let podman = Podman::new(case);
    let script = "id -u; id -g; grep CapEff /proc/self/status; touch /x";
    let flags = ["--user", "1000:1001", "--read-only", "--cap-drop", "all"];
    let outcome = podman.once(&flags, &["sh", "-c", script]);
    assert_eq!(outcome.expect(1), "1000\n1001\nCapEff:\t0000000000000000\n");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    let flags = [
        "--cap-drop",
        "all",
        "--cap-add",
        "chown",
        "--security-opt",
        "no-new-privileges",
    ];
    let script = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; mount -t tmpfs t /tmp";
    let outcome = podman.once(&flags, &["sh", "-c", script]);
    let output = outcome.text();
    assert!(
        output.contains("CapEff:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\n"),
        "{output}"
    );
    assert_ne!(outcome.status(), Some(0));
    let privileged = podman.once(
        &["--privileged"],
        &["sh", "-c", "mount -t tmpfs t /tmp && ls /dev"],
    );
    match case.isolation() {
        Isolation::Process => {
            let output = privileged.expect(0);
            assert!(output.contains("null"), "{output}");
        }
        Isolation::Vm => {
            privileged.expect(126);
            let message = "is a device of the host";
            assert!(privileged.stderr.contains(message), "{privileged:?}");
            // These give the same rights without the host's devices, as in docs/engines.md.
            let flags = [
                "--cap-add=all",
                "--security-opt=seccomp=unconfined",
                "--security-opt=unmask=all",
            ];
            let script =
                "mount -t tmpfs t /tmp; mount -t proc p /tmp; echo 1 >/tmp/sys/vm/drop_caches
                          grep ^Seccomp: /proc/self/status";
            let output = podman.once(&flags, &["sh", "-c", script]).expect(0);
            assert_eq!(output, "Seccomp:\t0\n");
        }
    }
    let script = "grep ^Seccomp: /proc/self/status";
    let output = podman.once(
        &["--security-opt", "seccomp=unconfined"],
        &["sh", "-c", script],
    );
    assert_eq!(output.expect(0), "Seccomp:\t0\n");
    podman.clear();
}

fn a_device(case: &Case) {
    if !Path::new("/dev/fuse").exists() {
        case.ignore("no /dev/fuse here, which every container may be given");
    }
    let podman = Podman::new(case);
    let device = ["--device", "/dev/fuse:/dev/mine:r"];
    let script = ": </dev/mine && echo opened; : >/dev/mine";
    // The log has it all, where a Podman that attaches may come too late for so short a workload.
    podman.detach(&device, script);
    podman.ok(&["wait", "c"]);
    let log = || podman.run(&["logs", "c"]);
    case.wait_for("the second opening", || {
        log().stderr.contains("not permitted")
    });
    let outcome = log();
    assert_eq!(outcome.expect(0), "opened\n", "{outcome:?}");
    podman.clear();
}

fn an_image_with_a_user(case: &Case) {
    let podman = Podman::new(case);
    let archive = image::busybox(case);
    let name = "localhost/user:test";
    let words = ["import", "--quiet", "--change", "USER 1234:1235"];
    let words = [&words[..], &[archive.to_str().unwrap(), name]].concat();
    podman.ok(&words);
    let script = "id -u; id -g; touch /x 2>/dev/null || echo not there; touch /tmp/x";
    let words = ["run", "--rm", "--cgroup-parent", podman.cgroup.path(), name];
    let words = [&words[..], &["sh", "-c", script]].concat();
    assert_eq!(podman.ok(&words), "1234\n1235\nnot there\n");
    podman.clear();
}

fn namespaces_of_others(case: &Case) {
    let podman = Podman::new(case);
    podman.detach(&["--hostname", "first"], "sleep 1000");
    let flags = [
        "--pid",
        "container:c",
        "--ipc",
        "container:c",
        "--network",
        "container:c",
    ];
    let show = "for n in pid ipc net; do readlink /proc/self/ns/$n; done";
    let theirs = podman.ok(&["exec", "c", "sh", "-c", show]);
    assert_eq!(podman.once(&flags, &["sh", "-c", show]).expect(0), theirs);
    let output = podman.once(&flags, &["ps"]).expect(0);
    assert!(output.contains("sleep 1000"), "{output}");
    let flags = [
        "--pid",
        "host",
        "--ipc",
        "host",
        "--network",
        "host",
        "--uts",
        "host",
    ];
    let output = podman.once(&flags, &["sh", "-c", show]).expect(0);
    for (line, kind) in output.lines().zip(["pid", "ipc", "net"]) {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(ours.to_str(), Some(line));
    }
    podman.clear();
}

fn namespaces_that_a_vm_has_no_part_in(case: &Case) {
    let podman = Podman::new(case);
    // Instead of the host's namespaces it gets the guest's.
    let flags = ["--pid", "host", "--ipc", "host", "--uts", "host"];
    podman.once(&flags, &["true"]).expect(0);
    let outcome = podman.once(&["--network", "host"], &["true"]);
    outcome.expect(126);
    assert!(outcome.stderr.contains("network"), "{}", outcome.stderr);
    podman.detach(&[], "sleep 1000");
    for kind in ["pid", "ipc"] {
        let outcome = podman.once(&[&format!("--{kind}"), "container:c"], &["true"]);
        outcome.expect(126);
        assert!(outcome.stderr.contains(kind), "{}", outcome.stderr);
    }
    podman.clear();
}

fn a_user_namespace(case: &Case) {
    let podman = Podman::new(case);
    let flags = ["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000"];
    let script =
        "id -u; tr -s ' ' </proc/self/uid_map; stat -c %u /bin/busybox; touch /x && stat -c %u /x";
    let output = podman.once(&flags, &["sh", "-c", script]).expect(0);
    assert_eq!(output, "0\n 0 100000 5000\n0\n0\n");
    podman.clear();
}

fn an_init(case: &Case) {
    if which("catatonit").is_none() && !Path::new("/usr/libexec/podman/catatonit").exists() {
        case.ignore("no catatonit here (Debian's catatonit has it)");
    }
    let podman = Podman::new(case);
    let output = podman.once(&["--init"], &["sh", "-c", ORPHANS]).expect(7);
    assert_eq!(output, "podman-init\nreaped\n");
    // The init passes a signal and a status on.
    let script = "trap 'exit 5' TERM; echo $$; while :; do sleep 0.05; done";
    podman.detach(&["--init"], script);
    podman.wait_for_log("\n");
    assert_ne!(podman.ok(&["logs", "c"]), "1\n");
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "5");
    podman.clear();
}

fn health_checks(case: &Case) {
    let podman = Podman::new(case);
    let flags = [
        "--health-cmd",
        "test -e /healthy",
        "--health-interval",
        "disable",
        "--health-retries",
        "1",
    ];
    podman.detach(&flags, "sleep 1000");
    podman.run(&["healthcheck", "run", "c"]).expect(1);
    assert_eq!(podman.inspect("{{.State.Health.Status}}"), "unhealthy");
    podman.ok(&["exec", "c", "touch", "/healthy"]);
    podman.ok(&["healthcheck", "run", "c"]);
    assert_eq!(podman.inspect("{{.State.Health.Status}}"), "healthy");
    podman.clear();
}

fn an_image_of_debian(case: &Case) {
    let podman = Podman::without_image(case);
    podman.import(&image::debian(case), DEBIAN);
    let parent = podman.cgroup.path();
    let run = |words: &[&str]| {
        let all = [
            &["run", "--rm", "--cgroup-parent", parent, DEBIAN][..],
            words,
        ]
        .concat();
        podman.run(&all)
    };
    let script =
        "set -e; . /etc/os-release; echo $VERSION_CODENAME; dpkg -l bash | tail -n 1 | cut -c 1-2
                  perl -e 'print join(\",\", map { $_ * $_ } 1 .. 5), \"\\n\"'
                  useradd -m someone; su someone -c 'id -un; touch ~/file; ls -l ~ | wc -l'";
    let outcome = run(&["bash", "-c", script]);
    assert_eq!(
        outcome.expect(0),
        "bookworm\nii\n1,4,9,16,25\nsomeone\n2\n",
        "{}",
        outcome.stderr
    );
    let stressors = "stress-ng --timeout 20 --quiet --cpu 1 --cpu-ops 20 --fork 1 --fork-ops 100 \
                     --pipe 1 --pipe-ops 1000 --temp-path /tmp && echo done";
    assert_eq!(run(&["sh", "-c", stressors]).expect(0), "done\n");
    podman.clear();
}
