//! What is found by whoever enters the namespaces of the process that stands for a container.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nacre_tests::{Case, Outcome};
use nix::unistd::Pid;

use super::{IDLE, marker, with_volumes};

nacre_tests::tests![
    who_enters_finds_the_container: Vm,
    a_volatile_root_isnt_shown: Vm,
    a_mount_of_the_guests_isnt_seen_through: Vm,
    an_exec_is_never_seen_outside: Vm,
];

/// Runs a shell script in the namespaces of a container's pid.
fn enter(case: &Case, pid: Pid, script: &str) -> Outcome {
    let mut command = case.mark(Command::new("nsenter"));
    command.arg(format!("--target={pid}"));
    command.args(["-m", "-p", "-i", "-u", "/bin/sh", "-c", script]);
    case.spawn(command).finish()
}

fn who_enters_finds_the_container(case: &Case) {
    let bundle = with_volumes(case, IDLE).mount("/made/for/it", "tmpfs", "tmpfs", &[]);
    fs::write(bundle.rootfs().join("etc/mark"), "the root's").unwrap();
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let script = "hostname; cat /etc/mark; echo; cat /volume/file /sealed/file; echo
                  echo new >/volume/new; echo new >/root/new
                  grep -E ' /(volume|sealed) ' /proc/self/mountinfo | cut -d ' ' -f 5,6
                  cd /proc; ls -d [0-9]* | wc -l; ls -d [a-z]*; ls -A /sys; ls -A /dev/shm /tmp 2>&1; :";
    let output = enter(case, pid, script).ok();
    // The shell, `ls` and `wc` are there too.
    let expected = "nacre\nthe root's\nvolumesealed\n\
                    /volume rw,nosuid,nodev,noexec,relatime\n\
                    /sealed ro,nosuid,nodev,noexec,relatime\n4\nself\nthread-self\n\
fs\nls: /dev/shm: Transport endpoint is not connected\n\
                    ls: /tmp: Transport endpoint is not connected\n";
    assert_eq!(sorted(&output), sorted(expected), "{output}");
    // Both see the container's own files.
    let script = "cat /volume/new /root/new";
    let inside = case.command(&["exec", case.id(), "sh", "-c", script]);
    assert_eq!(inside.ok(), "new\nnew\n");
    for place in [
        "/sealed",
        "/tmp",
        "/dev",
        "/dev/shm",
        "/sys",
        "/made/for/it",
        "/proc",
    ] {
        let outcome = enter(case, pid, &format!("echo >{place}/new"));
        assert_ne!(outcome.status(), Some(0), "{place}");
    }
    for place in ["tmp", "dev", "sys", "made/for/it", "proc"] {
        let below = fs::read_dir(bundle.rootfs().join(place)).unwrap();
        assert_eq!(below.count(), 0, "{place}");
    }
    case.remove_container();
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn a_volatile_root_isnt_shown(case: &Case) {
    let bundle = with_volumes(case, IDLE).annotation("dev.nacre.vm.rootfs", "overlay");
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    assert!(!root.join("bin").exists());
    fs::write(root.join("new"), "").unwrap_err();
    // What is on the host is visible.
    assert_eq!(
        fs::read_to_string(root.join("volume/file")).unwrap(),
        "volume"
    );
    assert!(!bundle.rootfs().join("volume").exists());
    case.remove_container();
}

fn a_mount_of_the_guests_isnt_seen_through(case: &Case) {
    let bundle = case.busybox().shell(IDLE);
    let bundle = bundle.mount("/covered", "tmpfs", "tmpfs", &[]);
    let root = bundle.rootfs();
    fs::create_dir(root.join("covered")).unwrap();
    fs::write(root.join("covered/below"), "").unwrap();
    // This image would have its mounts made elsewhere on the host.
    let marker = marker(case);
    let outside = marker.parent().unwrap();
    std::os::unix::fs::symlink(outside, root.join("away")).unwrap();
    let bundle = bundle.mount("/away", "tmpfs", "tmpfs", &[]);
    let bundle = bundle.push("/linux/maskedPaths", "/etc/passwd");
    let pid = case.detach(&bundle);
    case.wait_for_output("ready");
    let script = "ls -A /covered 2>&1; ls -A /away/ 2>&1; cat /etc/passwd; echo done";
    let unreachable = |path| format!("ls: {path}: Transport endpoint is not connected\n");
    let expected = unreachable("/covered") + &unreachable("/away/") + "done\n";
    assert_eq!(enter(case, pid, script).ok(), expected);
    case.remove_container();
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
    let made = root.join(outside.strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(made).unwrap().count(), 0);
}

/// A process with every right inspects everything in the container's pid namespace, while processes
/// come and go there.
fn an_exec_is_never_seen_outside(case: &Case) {
    let marker = marker(case);
    let pid = case.detach(&with_volumes(case, IDLE));
    case.wait_for_output("ready");
    let script = format!(
        "while [ ! -e /volume/stop ]; do
             for process in /proc/[0-9]*; do
                 [ $process = /proc/$$ ] && continue
                 [ $process = /proc/1 ] || seen=1
                 for way in root cwd cwd/../../../../../.. fd/3/../../../../../..; do
                     [ -e $process/$way{0} ] && echo $process/$way
                 done
                 grep -s -E 'Cap(Prm|Eff|Bnd):.*[1-9a-f]' $process/status
             done
         done; echo seen $seen",
        marker.display()
    );
    let mut racer = case.mark(Command::new("nsenter"));
    racer.arg(format!("--target={pid}"));
    racer.args(["-m", "-p", "/bin/sh", "-c", &script]);
    let racer = case.spawn(racer);
    for _ in 0..40 {
        let mut command = case.nacre();
        command.args(["exec", "--detach", case.id(), "true"]);
        assert_eq!(case.leave(command), 0, "{}", case.output());
    }
    fs::write(case.directory().join("volume/stop"), "").unwrap();
    assert_eq!(racer.finish().ok(), "seen 1\n");
    case.remove_container();
}
