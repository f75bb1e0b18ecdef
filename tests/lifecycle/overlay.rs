//! Overlay roots: the host's directory is only read, and what the container writes is its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::{Bundle, Case, fixtures};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use serde_json::Value;

nacre_tests::tests![
    writes_stay_in_the_guest: Vm,
    a_read_only_root_has_its_mount_points: Vm,
    two_containers_on_one_base: Vm,
    memory_has_a_limit: Vm,
    a_disk_has_a_limit: Vm,
    a_distribution_is_changed: Vm,
    the_state_tells_how_much_was_written: Vm,
    a_disk_is_gone_with_its_sandbox_process: Vm,
    what_can_not_be_had_is_refused_by_name: Vm,
    without_a_vm_the_annotation_means_nothing: Process,
];

const MEMORY: (&str, &str) = ("dev.nacre.vm.rootfs.memory", "24M");
pub(super) const DISK: (&str, &str) = ("dev.nacre.vm.rootfs.disk", "24M");

pub(super) fn overlay(bundle: Bundle, (name, size): (&str, &str)) -> Bundle {
    bundle
        .annotation("dev.nacre.vm.rootfs", "overlay")
        .annotation(name, size)
}

/// Lists everything below a directory: names, kinds, owners, modes, sizes and times, one line each.
fn listing(root: &Path) -> String {
    let mut find = Command::new("find");
    find.arg(root)
        .args(["-printf", "%P %y %U %G %m %n %s %T@ %l\n"]);
    let output = find.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn writes_stay_in_the_guest(case: &Case) {
    let root = case.busybox().rootfs();
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("dir/sub/file"), "below\n").unwrap();
    fs::write(root.join("one"), "one\n").unwrap();
    fs::hard_link(root.join("one"), root.join("two")).unwrap();
    fs::copy(root.join("bin/busybox"), root.join("suid")).unwrap();
    fs::set_permissions(root.join("suid"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::set_permissions(&root, PermissionsExt::from_mode(0o711)).unwrap();
    let before = listing(&root);
    for place in [MEMORY, DISK] {
        let script = "
            stat -c %a /
            # A directory that is renamed, and what is in it; a file that is gone, and back.
            mv /dir /moved && cat /moved/sub/file && [ ! -e /dir ]
            rm /moved/sub/file && [ ! -e /moved/sub/file ] && ls /moved/sub | wc -l
            mkdir /dir && ls /dir | wc -l
            # Names of one file, from below and new, stay one file.
            echo more >>/one && cat /two && ln /two /three && rm /one && stat -c %h /three
            # Owners and modes of what comes from below.
            chown 7:8 /etc/passwd && chmod 600 /etc/passwd && stat -c '%u %g %a' /etc/passwd
            touch /suid && stat -c %a /suid && chown 7 /suid && stat -c '%u %a' /suid
            # Inode numbers are files' own, and stay.
            before=$(stat -c %i /etc/group) && echo x:x:1: >>/etc/group
            [ $before = $(stat -c %i /etc/group) ] && echo same
            mkfifo /fifo && ln -s fifo /link && readlink /link && rm -r /tmp && mkdir /tmp
            sync && echo done";
        let capabilities = ["CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID", "CAP_DAC_OVERRIDE"];
        let bundle = overlay(case.busybox(), place)
            .set("/process/capabilities/effective", &capabilities[..])
            .set("/process/capabilities/permitted", &capabilities[..])
            .set("/process/capabilities/bounding", &capabilities[..])
            .shell(&format!("set -e{script}"));
        assert_eq!(
            case.run(&bundle).ok(),
            "711\nbelow\n0\n0\none\nmore\n2\n7 8 600\n4755\n7 755\nsame\nfifo\ndone\n"
        );
        assert_eq!(listing(&root), before);
    }
}

fn a_read_only_root_has_its_mount_points(case: &Case) {
    let bundle = overlay(case.busybox(), MEMORY)
        .set("/root/readonly", true)
        .mount("/made/here", "tmpfs", "tmpfs", &[])
        .shell("touch /made/here/file && ls /made/here; touch /file; grep ' / ' /proc/mounts");
    let outcome = case.run(&bundle);
    let text = outcome.text();
    let (first, mounts) = text.split_once('\n').unwrap();
    assert_eq!(first, "file");
    assert!(mounts.starts_with("overlay / overlay ro,"), "{mounts}");
    let error = &outcome.stderr;
    assert!(error.contains("/file: Read-only file system"), "{error}");
    assert!(!bundle.rootfs().join("made").exists());
}

fn two_containers_on_one_base(case: &Case) {
    let first = overlay(case.busybox(), MEMORY);
    let root = first.rootfs();
    let directory = case.directory().join("second");
    fs::create_dir(&directory).unwrap();
    let second = overlay(Bundle::read_only(&directory, &root), DISK).set("/root/readonly", false);
    let script = |mine: &str| {
        format!(
            "echo {mine} >/file; echo {mine} >/etc/passwd; echo ready; read -r _
             cat /file /etc/passwd /new; rm /new; echo ready; read -r _; ls /new; cat /etc/group"
        )
    };
    let start = |bundle: Bundle, id: &str, mine| {
        let bundle = bundle.shell(&script(mine));
        let mut command = case.nacre();
        command.args(["run", "--bundle"]).arg(bundle.write());
        command.arg(id);
        case.spawn(command)
    };
    let other = format!("{}-second", case.id());
    let mut running = [
        start(first, case.id(), "first"),
        start(second, &other, "second"),
    ];
    for container in &mut running {
        container.wait_for_line("ready");
    }
    assert!(!root.join("file").exists());
    // Both see what the host adds to the base meanwhile, once they look for it.
    fs::write(root.join("new"), "from the host\n").unwrap();
    for (container, mine) in running.iter_mut().zip(["first", "second"]) {
        writeln!(container.stdin.as_mut().unwrap()).unwrap();
        let seen = container.wait_for_line("ready");
        assert_eq!(seen, format!("{mine}\n{mine}\nfrom the host\n"));
    }
    // They also see what it writes to a file, unless the container has written to it.
    fs::write(root.join("etc/group"), "changed\n").unwrap();
    for mut container in running {
        writeln!(container.stdin.as_mut().unwrap()).unwrap();
        let outcome = container.finish();
        assert_eq!(outcome.text(), "changed\n");
        assert!(outcome.stderr.contains("/new: No such file"));
    }
    assert!(root.join("new").exists() && !root.join("file").exists());
}

/// Fills the root, which has 24 MiB, and goes on.
fn fill(case: &Case, place: (&str, &str)) {
    let bundle = overlay(case.busybox(), place).shell(
        "dd if=/dev/zero of=/big bs=64k count=1000 && echo it all fit; rm /big
         echo room >/small && cat /small; df -k / | tail -n 1",
    );
    let outcome = case.run(&bundle);
    let text = outcome.text();
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "room", "{}", outcome.stderr);
    let error = &outcome.stderr;
    assert!(error.contains("/big': No space left on device"), "{error}");
    let size: u64 = rest.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((20 << 10..=24 << 10).contains(&size), "{rest}");
}

fn memory_has_a_limit(case: &Case) {
    fill(case, MEMORY);
}

fn a_disk_has_a_limit(case: &Case) {
    fill(case, DISK);
}

fn a_distribution_is_changed(case: &Case) {
    let root = fixtures::debian().unwrap_or_else(|why| case.ignore(why));
    // The base may also be read-only on the host.
    let bundle = Bundle::read_only(case.directory(), root).set("/root/readonly", false);
    let bundle = overlay(bundle, ("dev.nacre.vm.rootfs.disk", "1G"))
        .annotation("dev.nacre.vm.memory", "512M")
        .args([
            "/bin/bash",
            "-c",
            "set -e
             before=$(cd /usr/share/perl5 && find . -type f -exec md5sum {} + | sort | md5sum)
             mv /usr/share/perl5 /usr/share/moved
             after=$(cd /usr/share/moved && find . -type f -exec md5sum {} + | sort | md5sum)
             [ \"$before\" = \"$after\" ] && echo renamed
             cp -a /usr/share/moved /copy && diff -r /usr/share/moved /copy && echo copied
             rm -rf /usr/share/moved /usr/share/doc && [ ! -e /usr/share/doc ] && echo removed
             # setxattr(2) and getxattr(2).
             perl -e 'my ($file, $name, $set, $got) = (qw(/etc/issue user.a value), \"\\0\" x 5);
                      syscall(188, $file, $name, $set, 5, 0) == 0 or die $!;
                      syscall(191, $file, $name, $got, 5) == 5 or die $!;
                      print \"$got\\n\"; truncate($file, 0) or die $!'
             [ ! -s /etc/issue ] && echo x >>/etc/issue && cat /etc/issue
             sync && echo done",
        ]);
    let output = case.run(&bundle).ok();
    assert_eq!(output, "renamed\ncopied\nremoved\nvalue\nx\ndone\n");
    assert!(root.join("usr/share/doc").is_dir());
}

/// Returns a field of `difference` from `nacre state`.
fn difference(case: &Case, field: &str) -> Value {
    case.inspect()["difference"][field].clone()
}

fn the_state_tells_how_much_was_written(case: &Case) {
    const MIB: u64 = 1 << 20;
    // Files are written and removed when the test says so; the test's own file disappears when that
    // is done.
    let script = "while :; do
            [ -e /say/write ] && dd if=/dev/zero of=/big bs=1M count=8 && sync && rm /say/write
            [ -e /say/remove ] && rm /big && sync && rm /say/remove
            sleep 0.1
        done";
    for (place, storage) in [(MEMORY, "memory"), (DISK, "disk")] {
        let say = case.directory().join("say");
        fs::create_dir_all(&say).unwrap();
        let bundle = overlay(case.busybox(), place)
            .mount("/say", "bind", say.to_str().unwrap(), &["bind"])
            .shell(script);
        case.create(&bundle);
        assert_eq!(difference(case, "storage"), storage);
        assert_eq!(difference(case, "limit"), 24 * MIB);
        let used = || difference(case, "used").as_u64().unwrap();
        let at_first = used();
        assert!(at_first < MIB, "{at_first}");
        assert_eq!(case.command(&["start", case.id()]).ok(), "");
        let done = |word: &str| {
            fs::write(say.join(word), "").unwrap();
            case.wait_for(word, || !say.join(word).exists());
        };
        done("write");
        let written = used();
        assert!((8 * MIB..10 * MIB).contains(&written), "{written}");
        let allocated = || difference(case, "allocated").as_u64();
        match storage {
            "disk" => assert!(allocated().unwrap() >= 8 * MIB),
            _ => assert_eq!(allocated(), None),
        }
        // A paused guest can't be asked.
        assert_eq!(case.command(&["pause", case.id()]).ok(), "");
        assert_eq!(difference(case, "used"), Value::Null);
        assert_eq!(allocated().is_some(), storage == "disk");
        assert_eq!(case.command(&["resume", case.id()]).ok(), "");
        done("remove");
        assert!(used() < MIB);
        // Space that isn't used any more is given back to the host.
        assert!(allocated().is_none_or(|bytes| bytes < 2 * MIB));
        assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
        case.wait_for_status("stopped");
        assert_eq!(case.inspect().get("difference"), None);
        case.remove_container();
    }
}

fn a_disk_is_gone_with_its_sandbox_process(case: &Case) {
    // A separate file system shows the space that unnamed files take.
    let disks = case.directory().join("disks");
    fs::create_dir(&disks).unwrap();
    let (none, flags) = (None::<&str>, MsFlags::empty());
    mount(none, &disks, Some("tmpfs"), flags, Some("size=64m")).unwrap();
    let used = || {
        let disks = statvfs(&disks).unwrap();
        (disks.blocks() - disks.blocks_free()) * disks.fragment_size()
    };
    let configuration = configuration(case, disks.to_str().unwrap());
    let bundle = overlay(case.busybox(), DISK)
        .shell("dd if=/dev/zero of=/big bs=1M count=8; sync; echo written; sleep 1000");
    let mut command = case.nacre_with(&configuration);
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let mut running = case.spawn(command);
    running.wait_for_line("written");
    assert!(used() > 8 << 20);
    assert_eq!(fs::read_dir(&disks).unwrap().count(), 0);
    let sandbox = case.inspect()["pid"].as_i64().unwrap();
    kill(Pid::from_raw(sandbox as i32), Signal::SIGKILL).unwrap();
    running.finish();
    case.wait_for("end of the disk", || used() == 0);
    umount(&disks).unwrap();
}

/// Returns the tests' configuration file with another directory for disks.
fn configuration(case: &Case, disks: &str) -> PathBuf {
    let text = nacre_tests::nacre::configuration();
    let (others, _) = text.split_once("disk-directory").unwrap();
    let path = case.directory().join("other.toml");
    fs::write(&path, format!("{others}disk-directory = {disks:?}\n")).unwrap();
    path
}

fn what_can_not_be_had_is_refused_by_name(case: &Case) {
    for (annotations, name) in [
        (&[("rootfs", "tmpfs")][..], "rootfs"),
        (&[("rootfs.disk", "1G")], "rootfs.disk"),
        (
            &[("rootfs", "shared"), ("rootfs.memory", "1G")],
            "rootfs.memory",
        ),
        (
            &[("rootfs", "overlay"), ("rootfs.disk", "1M")],
            "rootfs.disk",
        ),
        (
            &[("rootfs", "overlay"), ("rootfs.memory", "1T")],
            "rootfs.memory",
        ),
    ] {
        let bundle = annotations
            .iter()
            .fold(case.busybox(), |bundle, (name, value)| {
                bundle.annotation(&format!("dev.nacre.vm.{name}"), value)
            });
        let message = case.run(&bundle).refused(1);
        assert!(
            message.contains(&format!("dev.nacre.vm.{name}")),
            "{message}"
        );
    }
    // This directory has no room for a disk.
    let configuration = configuration(case, "/proc");
    let bundle = overlay(case.busybox(), DISK);
    let mut command = case.nacre_with(&configuration);
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let message = case.spawn(command).finish().refused(1);
    assert!(message.contains("a disk's image in /proc"), "{message}");
    assert!(message.contains("vm.disk-directory"), "{message}");
}

fn without_a_vm_the_annotation_means_nothing(case: &Case) {
    let bundle = overlay(case.busybox(), MEMORY).shell("echo written >/file");
    case.run(&bundle).ok();
    assert!(bundle.rootfs().join("file").exists());
}
