//! File systems that show the host's kernel: a VM is given nothing of them, however they are
//! mounted. On the host's kernel the container is given what its configuration names, as always.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nacre_tests::mounts::Mounts;
use nacre_tests::{Bundle, Case};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

nacre_tests::tests![
    a_shared_tree_has_no_view_of_the_hosts_kernel: Vm,
    nothing_hidden_is_uncovered: Vm,
    the_root_has_no_view_of_the_hosts_kernel: Vm,
    the_hosts_devices_are_inert: Vm,
    the_kernels_own_devices_are_kept_out: Vm,
];

/// Mounts proc and other file systems of the kernel below and above others. A guest may see only
/// `source/kept/own` and `source/file` of it.
fn stacks(source: &Path) -> Mounts {
    let mut mounts = Mounts::default();
    for (name, kinds) in [
        ("plain", &["proc"][..]),
        ("kept", &["proc", "sysfs", "tmpfs"]),
        ("over", &["tmpfs", "proc"]),
        ("twice", &["proc", "tmpfs", "proc"]),
        ("outer/inner", &["proc"]),
        ("outer", &["tmpfs"]),
        ("a b/sys", &["sysfs"]),
    ] {
        for kind in kinds {
            mounts.mount(kind, &source.join(name));
            if *kind == "tmpfs" {
                fs::write(source.join(name).join("own"), "hidden or not").unwrap();
            }
        }
    }
    for name in ["file", "core"] {
        fs::write(source.join(name), "a file").unwrap();
    }
    mounts.bind(
        Path::new("/proc/sys/kernel/core_pattern"),
        &source.join("core"),
    );
    mounts
}

/// Gives the right to unmount whatever the guest's kernel has mounted.
fn administrator(bundle: Bundle) -> Bundle {
    ["bounding", "effective", "permitted"]
        .into_iter()
        .fold(bundle, |bundle, set| {
            let path = format!("/process/capabilities/{set}");
            bundle.set(&path, json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]))
        })
}

/// Searches a directory for files of the host's kernel, then removes all mounts in it that can be
/// removed, and searches again. If anything were accessible, there would be lines other than the
/// files' names, and the host's `core_pattern` would have another value.
fn search(top: &str) -> String {
    format!(
        "look() {{
           find '{top}' -type f
           for name in plain kept over twice outer outer/inner 'a b/sys'; do
             for file in sys/kernel/core_pattern kernel/mm/ksm/run self/status \
                 ../plain/sys/kernel/core_pattern; do
               try \"{top}/$name/$file\"
             done
           done
           try '{top}/core'
         }}
         try() {{
           [ -e \"$1\" ] || return
           head -c 1 \"$1\" | grep -q . && echo \"READ $1\"
           (echo '|/evil' >>\"$1\") 2>/dev/null && echo \"WROTE $1\"
         }}
         look
         for turn in 1 2 3; do
           for name in kept over twice outer/inner outer plain 'a b/sys' core ''; do
             umount -l \"{top}/$name\" 2>/dev/null
           done
         done
         look"
    )
}

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// The host's `core_pattern`, which is restored when this is dropped, whatever was seen.
struct CorePattern(String);

impl CorePattern {
    fn read() -> Self {
        Self(fs::read_to_string(CORE_PATTERN).unwrap())
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(fs::read_to_string(CORE_PATTERN).unwrap(), self.0);
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        let _ = fs::write(CORE_PATTERN, &self.0);
    }
}

fn a_shared_tree_has_no_view_of_the_hosts_kernel(case: &Case) {
    let source = case.directory().join("source");
    let mut mounts = Mounts::default();
    for (kind, name) in [("proc", "proc"), ("tmpfs", "tmp")] {
        mounts.mount(kind, &source.join(name));
    }
    fs::write(source.join("tmp/file"), "").unwrap();
    let source = source.to_str().unwrap();
    let bundle = case.busybox().shell("ls /data/proc /data/tmp");
    let below = bundle.mount("/data", "bind", source, &["rbind"]);
    assert_eq!(case.run(&below).ok(), "/data/proc:\n\n/data/tmp:\nfile\n");
    let itself = case
        .busybox()
        .mount("/data", "bind", &format!("{source}/proc"), &["rbind"]);
    let message = case.run(&itself).refused(1);
    assert!(message.contains("mounts[7].source: "), "{message}");
    assert!(message.contains("of the type proc"), "{message}");
}

fn nothing_hidden_is_uncovered(case: &Case) {
    let source = case.directory().join("source");
    let _mounts = stacks(&source);
    let pattern = CorePattern::read();
    let bundle = administrator(case.busybox().shell(&search("/data")))
        .mount("/data", "bind", source.to_str().unwrap(), &["rbind"])
        .mount("/one", "bind", source.to_str().unwrap(), &["bind"]);
    let outcome = case.run(&bundle);
    pattern.assert_untouched();
    let text = outcome.text();
    assert!(!text.contains("READ") && !text.contains("WROTE"), "{text}");
    // The files that containers may see.
    for name in ["/data/file\n", "/data/kept/own\n", "/data/outer/own\n"] {
        assert!(text.contains(name), "{name} isn't in:\n{text}");
    }
    for name in [
        "pattern",
        "sysrq",
        "status",
        "/data/over/own",
        "/data/twice/own",
    ] {
        assert!(!text.contains(name), "{name} is in:\n{text}");
    }
}

fn the_root_has_no_view_of_the_hosts_kernel(case: &Case) {
    let bundle = administrator(case.busybox().shell(&search("/data")));
    let _mounts = stacks(&bundle.rootfs().join("data"));
    let pattern = CorePattern::read();
    let outcome = case.run(&bundle);
    pattern.assert_untouched();
    let text = outcome.text();
    assert!(text.contains("/data/kept/own\n"), "{text}");
    for name in [
        "READ",
        "WROTE",
        "pattern",
        "sysrq",
        "status",
        "/data/over/own",
    ] {
        assert!(!text.contains(name), "{name} is in:\n{text}");
    }
}

fn the_hosts_devices_are_inert(case: &Case) {
    // Container engines do it like this for callers who ask for all of the host's devices, where
    // `/dev` is a tmpfs. It contains nodes of the guest's devices, which the container may not use;
    // the kernel's file systems below it are empty.
    let source = case.directory().join("source");
    let mut mounts = Mounts::default();
    mounts.mount("tmpfs", &source);
    for (name, minor) in [("mem", 1), ("null", 3), ("port", 4), ("kmsg", 11)] {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&source.join(name), SFlag::S_IFCHR, mode, makedev(1, minor)).unwrap();
    }
    for kind in ["devpts", "mqueue"] {
        mounts.mount(kind, &source.join(kind));
    }
    let bundle = case
        .busybox()
        .mount(
            "/host-dev",
            "bind",
            source.to_str().unwrap(),
            &["rbind", "ro"],
        )
        .shell(
            "ls /host-dev/null; for name in kmsg mem port; do
               head -c 1 /host-dev/$name >/dev/null && echo \"READ $name\"
             done; ls /host-dev/devpts /host-dev/mqueue; chmod 0 /host-dev/null",
        );
    let outcome = case.run(&bundle);
    let text = outcome.text();
    assert!(text.starts_with("/host-dev/null\n"), "{outcome:?}");
    assert!(!text.contains("READ"), "{outcome:?}");
    assert!(!text.contains("ptmx"), "{outcome:?}");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
}

/// Files that are made in the host's `/dev`, which are removed when this is dropped.
struct Made([PathBuf; 3]);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn the_kernels_own_devices_are_kept_out(case: &Case) {
    // By statfs(2) these devices are in a tmpfs; a node that is made there is made for the host.
    let source = case.directory().join("source");
    let mut mounts = Mounts::default();
    let devices = source.join("dev");
    mounts.mount("devtmpfs", &devices);
    let [file, node, own] = ["file", "node", "own"].map(|name| format!("{}-{name}", case.id()));
    let made = Made([&file, &node, &own].map(|name| devices.join(name)));
    let [_, _, own] = &made.0;
    let mode = Mode::from_bits_truncate(0o640);
    mknod(own, SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    let before = fs::metadata(own).unwrap().mode();
    fs::write(source.join("null"), "").unwrap();
    mounts.bind(own, &source.join("null"));
    let script = format!(
        "ls -A /data/dev
         echo new >/data/dev/{file} && echo MADE
         mknod -m 666 /data/dev/{node} b 8 0 && echo MADE
         chmod 666 /data/null && echo CHANGED
         [ -c /data/null ] && echo SEEN"
    );
    let bundle = ["bounding", "effective", "permitted"]
        .into_iter()
        .fold(case.busybox().shell(&script), |bundle, set| {
            let path = format!("/process/capabilities/{set}");
            bundle.set(
                &path,
                json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]),
            )
        })
        .mount("/data", "bind", source.to_str().unwrap(), &["rbind"]);
    let outcome = case.run(&bundle);
    assert_eq!(outcome.text(), "", "{outcome:?}");
    let exist = made.0.each_ref().map(|path| path.exists());
    assert_eq!(exist, [false, false, true], "{outcome:?}");
    let after = fs::metadata(own).unwrap().mode();
    assert_eq!(after, before, "{outcome:?}");

    // If it is the source itself, the source is named.
    let bundle = case
        .busybox()
        .mount("/data", "bind", devices.to_str().unwrap(), &["rbind"]);
    let message = case.run(&bundle).refused(1);
    assert!(message.contains("mounts[7].source: "), "{message}");
    assert!(message.contains("of the type devtmpfs"), "{message}");
}
