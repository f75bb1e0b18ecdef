//! The container's root: images whose `/proc`, `/sys` and `/dev` are something else, and links that
//! are exchanged while the container is made.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nacre_tests::console::ConsoleSocket;
use nacre_tests::{Bundle, Case};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use super::{Outside, SECRET, assert_refused, tree, tries, with_capabilities, without_mounts};

nacre_tests::tests![
    cve_2019_16884_no_volume_takes_the_place_of_proc,
    cve_2019_19921_proc_is_not_mounted_into_a_volume,
    cve_2023_27561_proc_is_not_mounted_into_an_earlier_mount,
    cve_2021_30465_mounts_stay_inside_while_links_are_exchanged,
    cve_2024_45310_nothing_is_made_outside_while_links_are_exchanged,
    cve_2023_25809_cgroups_are_read_only_without_a_namespace,
    cve_2023_28642_proc_and_sys_are_no_links,
    cve_2025_31133_a_dev_null_of_the_image_masks_nothing,
    cve_2025_52565_a_console_of_the_image_leads_nowhere,
    cve_2025_52881_nothing_is_written_to_a_proc_of_the_image,
    cve_2026_41579_a_dev_that_is_a_link_leads_nowhere,
];

/// Exchanges two files for one another until it is dropped.
struct Exchange {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    fn of(one: PathBuf, other: PathBuf) -> Self {
        let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&turns));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).unwrap();
                AtomicU64::fetch_add(&counted, 1, Ordering::Relaxed);
            }
        });
        Self {
            stop,
            turns,
            thread: Some(thread),
        }
    }

    /// Ends it after enough exchanges.
    #[track_caller]
    fn end(mut self) {
        assert!(self.turns.load(Ordering::Relaxed) > 1000, "too few turns");
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A volume of the image is mounted at `/proc`, so that labels are written to its files instead of
/// the kernel's. The container would run.
fn cve_2019_16884_no_volume_takes_the_place_of_proc(case: &Case) {
    let volume = case.directory().join("volume");
    fs::create_dir_all(volume.join("self/attr")).unwrap();
    fs::write(volume.join("self/attr/exec"), "").unwrap();
    let bundle = without_mounts(case.busybox(), &["/proc"])
        .mount("/proc", "bind", volume.to_str().unwrap(), &["rbind"])
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .shell("true");
    let words = "only a proc file system may be mounted there";
    assert_refused(&case.run(&bundle), words);
    assert_eq!(fs::read(volume.join("self/attr/exec")).unwrap(), b"");
}

/// `/proc` is a link into a volume that two containers share: the other would see a `/proc` that
/// isn't masked yet.
fn cve_2019_19921_proc_is_not_mounted_into_a_volume(case: &Case) {
    proc_is_not_mounted_through_a_link(case, false);
}

/// The same attack with the volume mounted before `/proc`, which reintroduced it.
fn cve_2023_27561_proc_is_not_mounted_into_an_earlier_mount(case: &Case) {
    proc_is_not_mounted_through_a_link(case, true);
}

fn proc_is_not_mounted_through_a_link(case: &Case, volume_first: bool) {
    let volume = case.directory().join("volume");
    fs::create_dir_all(volume.join("proc")).unwrap();
    let bundle = case.busybox().shell("true");
    let root = bundle.rootfs();
    fs::create_dir(root.join("shared")).unwrap();
    fs::remove_dir(root.join("proc")).unwrap();
    symlink("/shared/proc", root.join("proc")).unwrap();
    let shared = json!({
        "destination": "/shared", "type": "bind", "source": volume, "options": ["rbind"],
    });
    let proc = json!({ "destination": "/proc", "type": "proc", "source": "proc" });
    let mounts = if volume_first {
        json!([shared, proc])
    } else {
        json!([proc, shared])
    };
    let outcome = case.run(&bundle.set("/mounts", mounts));
    assert_refused(
        &outcome,
        "the destination of a proc mount must be a directory, and no symbolic link",
    );
    assert_eq!(tree(&volume.join("proc")), [""; 0]);
}

/// While a container is made, another one that shares a volume with it exchanges a directory there
/// for a link to a directory of the host. Mounts and their mount points would be made at the
/// link's target.
fn cve_2021_30465_mounts_stay_inside_while_links_are_exchanged(case: &Case) {
    let names = ["a", "b", "c"];
    let outside = Outside::new(case, &names);
    let bundle = case
        .busybox()
        .mount("/volume/a", "tmpfs", "tmpfs", &[])
        .mount("/volume/b/made", "tmpfs", "tmpfs", &[])
        .mount("/volume/c", "tmpfs", "tmpfs", &["tmpcopyup"])
        .shell("for f in /volume/*; do echo x >$f/written; done; cat /volume/secret; true");
    let volume = bundle.rootfs().join("volume");
    for name in names {
        fs::create_dir_all(volume.join(name)).unwrap();
    }
    race(case, &bundle, &outside);
}

/// Directories for mounts, the working directory and devices are made while links are exchanged.
/// Some would appear at the link's target.
fn cve_2024_45310_nothing_is_made_outside_while_links_are_exchanged(case: &Case) {
    let outside = Outside::new(case, &["a"]);
    let file = case.directory().join("file");
    fs::write(&file, "").unwrap();
    let bundle = case
        .busybox()
        .mount(
            "/volume/deep/file",
            "bind",
            file.to_str().unwrap(),
            &["bind"],
        )
        .mount("/volume/a/x/y", "tmpfs", "tmpfs", &[])
        .set("/process/cwd", "/volume/cwd/made")
        .push(
            "/linux/devices",
            json!({ "path": "/volume/zero", "type": "c", "major": 1, "minor": 5 }),
        )
        .shell("true");
    fs::create_dir(bundle.rootfs().join("volume")).unwrap();
    race(case, &bundle, &outside);
}

/// Runs the container again and again while `/volume` in its root is exchanged for a link to
/// `outside`.
#[track_caller]
fn race(case: &Case, bundle: &Bundle, outside: &Outside) {
    let root = bundle.rootfs();
    symlink(&outside.path, root.join("link")).unwrap();
    let exchange = Exchange::of(root.join("volume"), root.join("link"));
    for _ in 0..tries(case) {
        let outcome = case.run(bundle);
        assert!(!outcome.text().contains(SECRET), "{outcome:?}");
        outside.assert_untouched();
    }
    exchange.end();
}

/// Without a cgroup namespace, `/sys/fs/cgroup` shows the hierarchy of the host. A control group
/// could be made there, as `made`.
fn cve_2023_25809_cgroups_are_read_only_without_a_namespace(case: &Case) {
    let namespaces = json!([
        { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
        { "type": "mount" },
    ]);
    let bundle = with_capabilities(case.busybox(), &["CAP_DAC_OVERRIDE"])
        .set("/linux/namespaces", namespaces)
        .shell(
            "cd /sys/fs/cgroup || exit 9
             for d in . *; do mkdir $d/made-by-test 2>&1; done; ls -d /sys/fs/cgroup/*",
        );
    let outcome = case.run(&bundle);
    let text = outcome.expect(0);
    assert!(text.contains("Read-only file system"), "{outcome:?}");
    assert!(!text.contains("cgroup/made-by-test\n"), "{outcome:?}");
}

/// `/proc` or `/sys` is a link to another directory of the image, so that what is masked and
/// labelled isn't what is used. The container would run.
fn cve_2023_28642_proc_and_sys_are_no_links(case: &Case) {
    for (link, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let bundle = case.busybox().shell("true");
        let root = bundle.rootfs();
        let _ = fs::create_dir(root.join("elsewhere"));
        fs::remove_dir(root.join(link)).unwrap();
        symlink("/elsewhere", root.join(link)).unwrap();
        let words = format!("the destination of a {kind} mount must be a directory");
        assert_refused(&case.run(&bundle), &words);
        fs::remove_file(root.join(link)).unwrap();
        fs::create_dir(root.join(link)).unwrap();
    }
}

/// The image's `/dev/null`, with which files are masked, is a link to a file of the kernel: that
/// would be mounted in place of what is masked, or what is masked would stay readable.
fn cve_2025_31133_a_dev_null_of_the_image_masks_nothing(case: &Case) {
    let bundle = without_mounts(case.busybox(), &["/dev"])
        .set("/linux/maskedPaths", json!(["/secret"]))
        .set("/linux/readonlyPaths", json!([]))
        .shell("cat /secret; echo x >/secret; true");
    let root = bundle.rootfs();
    fs::write(root.join("secret"), SECRET).unwrap();
    for target in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/secret",
    ] {
        let _ = fs::remove_file(root.join("dev/null"));
        symlink(target, root.join("dev/null")).unwrap();
        let outcome = case.run(&bundle);
        assert!(!outcome.text().contains(SECRET), "{outcome:?}");
        assert_refused(&outcome, "/dev/null");
    }
    assert_eq!(fs::read_to_string(root.join("secret")).unwrap(), SECRET);
}

/// The image's `/dev/console`, over which the terminal is mounted, is a link: the terminal would be
/// mounted over the link's target, or the target's owner and mode would be changed.
fn cve_2025_52565_a_console_of_the_image_leads_nowhere(case: &Case) {
    let outside = Outside::new(case, &[]);
    let bundle = without_mounts(case.busybox(), &["/dev"])
        .set("/process/terminal", true)
        .mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["newinstance", "ptmxmode=0666"],
        )
        .shell("true");
    let root = bundle.rootfs();
    fs::write(root.join("target"), "as it was").unwrap();
    let console = root.join("dev/console");
    let secret = format!("{}/secret", outside.text());
    for target in [
        "/target",
        "/proc/sys/kernel/core_pattern",
        "../../outside/secret",
        &secret,
    ] {
        symlink(target, &console).unwrap();
        let socket = case.directory().join("console");
        let listener = ConsoleSocket::listen(case.directory());
        let mut command = case.nacre();
        command
            .args(["create", "--bundle"])
            .arg(bundle.write())
            .arg("--console-socket")
            .arg(listener.path())
            .arg(case.id());
        let outcome = case.spawn(command).finish();
        assert_refused(&outcome, "/dev/console in the container is a symbolic link");
        fs::remove_file(&console).unwrap();
        let _ = fs::remove_file(socket);
    }
    assert_eq!(
        fs::read_to_string(root.join("target")).unwrap(),
        "as it was"
    );
    outside.assert_untouched();
}

/// What the runtime writes to `/proc` goes to files of the image that stand in for it, or to the
/// targets of such links: labels would be lost, and the wrong files written.
fn cve_2025_52881_nothing_is_written_to_a_proc_of_the_image(case: &Case) {
    let fake = case.directory().join("fake");
    fs::create_dir_all(fake.join("net/ipv4")).unwrap();
    fs::write(fake.join("net/ipv4/ip_forward"), "").unwrap();
    fs::write(fake.join("exec"), "").unwrap();
    let before = tree(&fake);
    let source = fake.to_str().unwrap();
    for place in ["/proc/self/attr", "/proc/self", "/proc/sys", "/proc"] {
        let bundle = case
            .busybox()
            .mount(place, "bind", source, &["bind"])
            .set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }))
            .shell("true");
        let outcome = case.run(&bundle);
        assert_refused(&outcome, "proc");
        assert_eq!(tree(&fake), before, "{place}");
    }
    // There is no proc file system at all, but files in its place.
    let bundle = without_mounts(case.busybox(), &["/proc"])
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }))
        .shell("cat /proc/sys/net/ipv4/ip_forward");
    let file = bundle.rootfs().join("proc/sys/net/ipv4/ip_forward");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "of the image").unwrap();
    case.run(&bundle);
    assert_eq!(fs::read_to_string(&file).unwrap(), "of the image");
}

/// The image's `/dev` is a link to a directory of the host. `ptmx` there would be removed or become
/// a link, and `fd`, `stdin`, `stdout`, `stderr` and devices would appear.
fn cve_2026_41579_a_dev_that_is_a_link_leads_nowhere(case: &Case) {
    let outside = Outside::new(case, &["pts"]);
    for target in [
        outside.text(),
        "../outside",
        "../../../../../../../../tmp/../outside",
    ] {
        for dev_is_mounted in [false, true] {
            let places: &[&str] = if dev_is_mounted { &[] } else { &["/dev"] };
            let bundle = without_mounts(case.busybox(), places)
                .push(
                    "/linux/devices",
                    json!({ "path": "/dev/other", "type": "c", "major": 1, "minor": 5 }),
                )
                .shell("ls /dev/");
            let dev = bundle.rootfs().join("dev");
            let _ = fs::remove_dir_all(&dev);
            symlink(target, &dev).unwrap();
            let outcome = case.run(&bundle);
            outside.assert_untouched();
            assert!(!outcome.text().contains("secret"), "{outcome:?}");
            fs::remove_file(&dev).unwrap();
            fs::create_dir(&dev).unwrap();
        }
    }
}
