//! Containers one after another, and commands one after another on one container: nothing
//! accumulates.

use std::fs;

use nacre_tests::place::in_testbed;
use nacre_tests::suite::side_by_side;
use nacre_tests::{Bundle, Case, Isolation, leftovers};
use nix::unistd::Pid;

use super::network::{Lan, in_namespace};
use super::overlay::{DISK, overlay};

nacre_tests::tests![
    create_start_delete,
    with_an_interface,
    with_a_disk,
    a_container_that_serves_many,
];

/// Returns how many containers come and go one after another, beside as many others:
/// `NACRE_TESTS_CYCLES`, or a number that makes 200 in three tests. The testbed runs one of the
/// tests, and takes seconds for each container.
fn cycles(case: &Case) -> usize {
    let asked = std::env::var("NACRE_TESTS_CYCLES").ok();
    asked.map_or_else(
        || match case.isolation() {
            Isolation::Vm if in_testbed() => 2,
            _ => 34,
        },
        |asked| asked.parse().expect("NACRE_TESTS_CYCLES is a number"),
    )
}

/// Makes a bundle for one of the two containers that exist at a time, with a directory of its own.
fn busybox(case: &Case, number: usize) -> Bundle {
    let directory = case.directory().join(number.to_string());
    fs::create_dir(&directory).unwrap();
    Bundle::busybox(&directory)
}

/// Makes containers of both bundles come and go. Each is passed to `used` after its start.
fn come_and_go(case: &Case, bundles: &[Bundle; 2], used: impl Fn(&Bundle) + Sync) {
    side_by_side(&[0, 1], |number: &usize| {
        let bundle = &bundles[*number];
        let id = format!("{}-{number}", case.id());
        let directory = bundle.write();
        for _ in 0..cycles(case) {
            let mut create = case.nacre();
            create.args(["create", "--bundle"]).arg(directory).arg(&id);
            assert_eq!(case.leave(create), 0, "{}", case.output());
            case.command(&["start", &id]).ok();
            used(bundle);
            case.command(&["delete", "--force", &id]).ok();
        }
    });
    // The harness looks for processes, mounts, cgroups and files after every test.
    assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
}

/// It may have ended when it is deleted, or be about to end.
fn create_start_delete(case: &Case) {
    let bundles = [0, 1].map(|number| busybox(case, number).args(["true"]));
    come_and_go(case, &bundles, |_| ());
}

/// Adds a volume to which the script writes the file `done`. The container runs until it is
/// deleted.
fn with_a_volume(bundle: Bundle, script: &str) -> Bundle {
    let volume = bundle.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    bundle
        .mount("/volume", "bind", volume.to_str().unwrap(), &["bind"])
        .shell(&format!(
            "{script} >/volume/new && mv /volume/new /volume/done && exec sleep 1000"
        ))
}

/// Returns what that script wrote, and removes it.
fn take_done(case: &Case, bundle: &Bundle) -> String {
    let done = bundle.directory().join("volume/done");
    case.wait_for("what the container writes", || done.exists());
    let written = fs::read_to_string(&done).unwrap();
    fs::remove_file(&done).unwrap();
    written
}

fn with_an_interface(case: &Case) {
    let lan = Lan::new(case);
    let names = ["a", "b"];
    let bundles = [0, 1].map(|number| {
        lan.add(names[number]);
        lan.attach(names[number], "eth0", "one", 2 + number as u32);
        let path = lan.network.named(names[number]);
        let bundle = in_namespace(busybox(case, number), path.to_str().unwrap());
        with_a_volume(bundle, "cat /sys/class/net/eth0/address")
    });
    let before = names.map(|name| lan.shown(name));
    come_and_go(case, &bundles, |bundle| {
        let address = take_done(case, bundle);
        assert!(address.starts_with("02:73:00:00:01:0"), "{address}");
    });
    // Neither a tap nor a filter is left.
    assert_eq!(names.map(|name| lan.shown(name)), before);
}

fn with_a_disk(case: &Case) {
    let bundles = [0, 1].map(|number| {
        let bundle = overlay(busybox(case, number), DISK);
        with_a_volume(bundle, "echo written >/file && cat /file")
    });
    come_and_go(case, &bundles, |bundle| {
        assert_eq!(take_done(case, bundle), "written\n");
        // A write goes to the container's own disk, where it has one.
        let is_shared = bundle.rootfs().join("file").exists();
        assert_eq!(is_shared, case.isolation() == Isolation::Process);
    });
}

/// Returns how many descriptors a process has open.
fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn a_container_that_serves_many(case: &Case) {
    case.idle();
    let commands = || {
        case.command(&["exec", case.id(), "true"]).ok();
        case.command(&["ps", case.id()]).ok();
        case.command(&["pause", case.id()]).ok();
        case.command(&["resume", case.id()]).ok();
    };
    let used = || {
        let all = leftovers::processes(case.id()).into_iter();
        all.map(|(pid, _)| descriptors(pid)).collect::<Vec<_>>()
    };
    commands();
    let before = used();
    for _ in 0..cycles(case) {
        commands();
    }
    // What the process was given for the last command is closed a moment after that command's end.
    case.wait_for(&format!("{before:?} descriptors"), || used() == before);
    case.remove_container();
}
