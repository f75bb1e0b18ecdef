//! The root file system and mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nacre_tests::Case;
use serde_json::json;

nacre_tests::tests![
    a_written_root_is_seen_on_the_host,
    a_read_only_root,
    every_type_of_mount,
    a_tmpfs_has_its_options,
    a_bound_directory,
    a_bound_directory_that_is_read_only,
    bound_files,
    a_type_of_mount_that_the_kernel_doesnt_know,
    mount_points_are_made,
    mount_points_are_made_in_a_read_only_root,
    masked_and_read_only_paths,
    a_symlink_doesnt_lead_out_of_the_root,
    a_mount_point_doesnt_lead_out_of_the_root,
    files_behave_like_files,
];

fn a_written_root_is_seen_on_the_host(case: &Case) {
    let bundle = case.busybox().shell(
        "ls /; cat /from-host; echo from the guest >/from-guest; chmod 640 /from-guest; \
         mkdir /made; ln -s from-guest /link; rm /from-host",
    );
    let root = bundle.rootfs();
    fs::write(root.join("from-host"), "from the host\n").unwrap();
    assert_eq!(
        case.run(&bundle).ok(),
        "bin\ndev\netc\nfrom-host\nproc\nroot\nsys\ntmp\nfrom the host\n"
    );
    assert_eq!(
        fs::read_to_string(root.join("from-guest")).unwrap(),
        "from the guest\n"
    );
    let metadata = fs::metadata(root.join("from-guest")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
    assert!(root.join("made").is_dir());
    assert_eq!(
        fs::read_link(root.join("link")).unwrap().to_str(),
        Some("from-guest")
    );
    assert!(!root.join("from-host").exists());
}

fn a_read_only_root(case: &Case) {
    let bundle = case
        .busybox()
        .set("/root/readonly", true)
        .mount("/tmp", "tmpfs", "tmpfs", &[])
        .shell(
            "touch /file; echo ok >/tmp/file && cat /tmp/file; mount -o remount,rw /
             for at in / /dev/shm; do grep \" $at \" /proc/self/mounts | cut -d ' ' -f 4 | cut -d , -f 1; done",
        );
    let outcome = case.run(&bundle);
    assert_eq!(outcome.text(), "ok\nro\nrw\n");
    assert!(
        outcome.stderr.contains("/file: Read-only file system"),
        "{}",
        outcome.stderr
    );
    assert!(!bundle.rootfs().join("file").exists());
}

fn every_type_of_mount(case: &Case) {
    // The default configuration has every kind of mount but bind, which has tests of its own.
    let bundle = case.busybox().args(["cat", "/proc/self/mounts"]);
    let output = case.run(&bundle).ok();
    let mounts: Vec<Vec<&str>> = output.lines().map(|l| l.split(' ').collect()).collect();
    // With version 1 it is a directory of the hierarchies, each of which is read-only.
    let cgroup = if case.has_cgroup2() {
        (
            "/sys/fs/cgroup",
            "cgroup2",
            vec!["ro", "nosuid", "nodev", "noexec"],
        )
    } else {
        (
            "/sys/fs/cgroup/memory",
            "cgroup",
            vec!["ro", "nosuid", "nodev", "noexec"],
        )
    };
    for (place, kind, options) in [
        ("/proc", "proc", vec!["rw"]),
        (
            "/dev",
            "tmpfs",
            vec!["rw", "nosuid", "mode=755", "size=65536k"],
        ),
        (
            "/dev/pts",
            "devpts",
            vec!["nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"],
        ),
        (
            "/dev/shm",
            "tmpfs",
            vec!["nosuid", "nodev", "noexec", "size=65536k"],
        ),
        ("/dev/mqueue", "mqueue", vec!["nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", vec!["ro", "nosuid", "nodev", "noexec"]),
        cgroup,
    ] {
        let mount = mounts
            .iter()
            .find(|mount| mount[1] == place)
            .unwrap_or_else(|| panic!("{place} isn't mounted:\n{output}"));
        assert_eq!(mount[2], kind, "{place}");
        let has: Vec<&str> = mount[3].split(',').collect();
        for option in options {
            assert!(has.contains(&option), "{place} lacks {option}: {has:?}");
        }
    }
    let seen = |line: &Vec<&str>| line[1].starts_with("/run/nacre") || line[1].contains("old");
    assert!(
        !mounts.iter().any(seen),
        "the guest's own mounts are seen:\n{output}"
    );
}

fn a_tmpfs_has_its_options(case: &Case) {
    let bundle = case
        .busybox()
        .mount(
            "/small",
            "tmpfs",
            "tmpfs",
            &["size=1m", "mode=1770", "uid=7", "noexec"],
        )
        // If there is no directory to cover, the mount is accessible to everybody.
        .mount("/covering", "tmpfs", "tmpfs", &[])
        .mount("/new", "tmpfs", "tmpfs", &[])
        .shell(
            "stat -c '%a %u' /small; stat -c %a /covering /new; cp /bin/busybox /small/ 2>&1 | grep -o 'No space left'
             rm -f /small/*; echo '#!/bin/sh' >/small/x; chmod +x /small/x; /small/x; echo $?",
        );
    let covered = bundle.rootfs().join("covering");
    fs::create_dir(&covered).unwrap();
    fs::set_permissions(&covered, fs::Permissions::from_mode(0o750)).unwrap();
    let outcome = case.run(&bundle);
    assert_eq!(outcome.expect(0), "1770 7\n750\n1777\nNo space left\n126\n");
}

fn a_bound_directory(case: &Case) {
    let source = case.directory().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("before"), "from the host\n").unwrap();
    let bundle = case
        .busybox()
        .mount("/data", "bind", source.to_str().unwrap(), &["rbind", "rw"])
        .shell("cat /data/before; echo from the guest >/data/after; mkdir /data/directory");
    assert_eq!(case.run(&bundle).ok(), "from the host\n");
    assert_eq!(
        fs::read_to_string(source.join("after")).unwrap(),
        "from the guest\n"
    );
    assert!(source.join("directory").is_dir());
}

fn a_bound_directory_that_is_read_only(case: &Case) {
    let source = case.directory().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let bundle = case
        .busybox()
        .mount(
            "/data",
            "bind",
            source.to_str().unwrap(),
            &["bind", "ro", "noexec", "nosuid", "nodev"],
        )
        .shell(
            "touch /data/new; echo x >/data/run; /data/run; echo $?
             grep ' /data ' /proc/self/mounts",
        );
    let outcome = case.run(&bundle);
    let output = outcome.expect(0);
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2,
        "{}",
        outcome.stderr
    );
    assert!(output.starts_with("126\n"), "noexec: {output}");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(output.contains(option), "{option}: {output}");
    }
    assert_eq!(fs::read_dir(&source).unwrap().count(), 1);
}

fn bound_files(case: &Case) {
    let writable = case.directory().join("writable");
    let constant = case.directory().join("constant");
    fs::write(&writable, "one\n").unwrap();
    fs::write(&constant, "two\n").unwrap();
    let bundle = case
        .busybox()
        .mount(
            "/etc/writable",
            "bind",
            writable.to_str().unwrap(),
            &["bind"],
        )
        .mount(
            "/etc/constant",
            "bind",
            constant.to_str().unwrap(),
            &["bind", "ro"],
        )
        .shell(
            "cat /etc/writable /etc/constant; echo three >>/etc/writable
             echo four >>/etc/constant",
        );
    let outcome = case.run(&bundle);
    assert_eq!(outcome.text(), "one\ntwo\n", "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{}",
        outcome.stderr
    );
    assert_eq!(fs::read_to_string(&writable).unwrap(), "one\nthree\n");
    assert_eq!(fs::read_to_string(&constant).unwrap(), "two\n");
}

fn a_type_of_mount_that_the_kernel_doesnt_know(case: &Case) {
    let bundle = case.busybox().mount("/x", "nonesuch", "source", &[]);
    let message = case.run(&bundle).refused(1);
    assert!(message.contains("nonesuch"), "{message}");
    assert!(message.contains("/x"), "{message}");
}

fn mount_points_are_made(case: &Case) {
    let file = case.directory().join("file");
    fs::write(&file, "content\n").unwrap();
    let bundle = case
        .busybox()
        .mount("/a/b/c", "tmpfs", "tmpfs", &[])
        .mount("/a/b/c/d", "tmpfs", "tmpfs", &[])
        .mount("/e/f/file", "bind", file.to_str().unwrap(), &["bind"])
        .shell("touch /a/b/c/d/x && cat /e/f/file");
    assert_eq!(case.run(&bundle).ok(), "content\n");
}

fn mount_points_are_made_in_a_read_only_root(case: &Case) {
    let bundle = case
        .busybox()
        .set("/root/readonly", true)
        .mount("/made/for/it", "tmpfs", "tmpfs", &[])
        .shell("touch /made/for/it/x && ls /made/for/it");
    assert_eq!(case.run(&bundle).ok(), "x\n");
}

fn masked_and_read_only_paths(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/maskedPaths",
            json!([
                "/secret-file",
                "/secret-directory",
                "/not-there",
                "/proc/kcore"
            ]),
        )
        .set(
            "/linux/readonlyPaths",
            json!(["/constant", "/not-there", "/proc/sys"]),
        )
        .shell(
            "cat /secret-file; ls -A /secret-directory; head -c 1 /proc/kcore; touch /constant/x
             echo a >/proc/sys/kernel/hostname; echo end",
        );
    let root = bundle.rootfs();
    for directory in ["secret-directory", "constant"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::write(root.join("secret-file"), "secret").unwrap();
    fs::write(root.join("secret-directory/file"), "secret").unwrap();
    let outcome = case.run(&bundle);
    assert_eq!(outcome.expect(0), "end\n");
    assert_eq!(
        outcome.stderr.matches("Read-only file system").count(),
        2,
        "{}",
        outcome.stderr
    );
    assert_eq!(fs::read(root.join("secret-file")).unwrap(), b"secret");
}

fn a_symlink_doesnt_lead_out_of_the_root(case: &Case) {
    let secret = case.directory().join("secret");
    fs::write(&secret, "of the host").unwrap();
    let bundle = case
        .busybox()
        .shell("cat /absolute /relative /dots/secret 2>&1; ls -d /run/nacre 2>/dev/null; true");
    let root = bundle.rootfs();
    symlink(&secret, root.join("absolute")).unwrap();
    symlink("../secret", root.join("relative")).unwrap();
    symlink("../../../../..", root.join("dots")).unwrap();
    let output = case.run(&bundle).ok();
    assert_eq!(
        output.matches("No such file or directory").count(),
        3,
        "{output}"
    );
    assert!(!output.contains("of the host"), "{output}");
}

fn a_mount_point_doesnt_lead_out_of_the_root(case: &Case) {
    let outside = case.directory().join("outside");
    fs::create_dir(&outside).unwrap();
    let bundle = case
        .busybox()
        .mount("/escape/made", "tmpfs", "tmpfs", &[])
        .mount("/up/made", "tmpfs", "tmpfs", &[])
        .shell("true");
    let root = bundle.rootfs();
    symlink(&outside, root.join("escape")).unwrap();
    symlink("../outside", root.join("up")).unwrap();
    // It is refused, or resolved within the root, as by a chroot; either way nothing appears
    // outside.
    let outcome = case.run(&bundle);
    assert!(outcome.status().is_some(), "{outcome:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

fn files_behave_like_files(case: &Case) {
    let bundle = case.busybox().mount("/tmp", "tmpfs", "tmpfs", &[]).shell(
        "set -e; mkdir /work; cd /work
         head -c 3000000 /dev/urandom >a; sum=$(sha256sum <a)
         ln a hard; ln -s a soft; [ $(stat -c %h a) = 2 ]
         mv a b; [ ! -e a ]; [ \"$(sha256sum <hard)\" = \"$sum\" ]
         truncate -s 5 b; [ $(stat -c %s hard) = 5 ]
         truncate -s 10000000000 sparse; [ $(stat -c %b sparse) -lt 1000 ]
         dd if=b of=sparse bs=1 seek=9999999990 conv=notrunc 2>/dev/null
         [ $(stat -c %s sparse) = 10000000000 ]
         exec 5<b; rm b hard; [ $(wc -c <&5) = 5 ]; exec 5<&-
         chown 12:34 sparse; chmod 4755 sparse; [ \"$(stat -c '%u %g %a' sparse)\" = '12 34 4755' ]
         touch -d '2001-02-03 04:05:06' sparse; [ $(stat -c %Y sparse) = 981173106 ]
         mkfifo pipe; (echo through >pipe &); [ $(cat pipe) = through ]
         i=0; while [ $i -lt 300 ]; do : >file$i; i=$((i+1)); done; [ $(ls | grep -c ^file) = 300 ]
         rmdir /work 2>/dev/null && exit 1
         cd /; rm -r /work; [ ! -e /work ]; echo all well",
    );
    let bundle = bundle
        .set(
            "/process/capabilities/bounding",
            json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID"]),
        )
        .set(
            "/process/capabilities/permitted",
            json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID"]),
        )
        .set(
            "/process/capabilities/effective",
            json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID"]),
        );
    assert_eq!(case.run(&bundle).ok(), "all well\n");
}
