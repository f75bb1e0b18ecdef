//! The machine that a container runs in.

use std::fs;

use nacre_tests::{Bundle, Case, Outcome, nacre};
use serde_json::json;

nacre_tests::tests![
    its_kernel_is_its_own,
    as_many_cpus_as_asked_for,
    cpus_of_the_containers_limit,
    as_much_memory_as_asked_for,
    memory_above_the_hole_can_be_used,
    its_size_in_the_configuration_file,
    its_kernel_log_in_a_file,
    what_its_kernel_has_logged,
    it_boots_while_another_runs,
];

fn its_kernel_is_its_own(case: &Case) {
    let output = case.run(&case.busybox().args(["uname", "-r"])).ok();
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(output, host);
    assert!(output.starts_with("6."), "{output}");
}

fn as_many_cpus_as_asked_for(case: &Case) {
    for cpus in [1, 2, 5, 8] {
        let bundle = case
            .busybox()
            .annotation("dev.nacre.vm.cpus", &cpus.to_string())
            .shell("nproc; grep -c ^processor /proc/cpuinfo");
        assert_eq!(case.run(&bundle).ok(), format!("{cpus}\n{cpus}\n"));
    }
}

fn cpus_of_the_containers_limit(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/resources/cpu",
            json!({ "quota": 250_000, "period": 100_000 }),
        )
        .args(["nproc"]);
    // A VM gets at most as many CPUs as the host has.
    let cpus = std::thread::available_parallelism().unwrap().get().min(3);
    assert_eq!(case.run(&bundle).ok(), format!("{cpus}\n"));
}

/// Returns how much memory the guest's kernel has to give, in MiB.
fn total(case: &Case, asked: &str) -> u64 {
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.memory", asked)
        .args(["grep", "MemTotal", "/proc/meminfo"]);
    let output = case.run(&bundle).ok();
    let kib: u64 = output.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib >> 10
}

fn as_much_memory_as_asked_for(case: &Case) {
    // The kernel keeps some memory for itself, and a descriptor of 64 bytes for each page.
    for (asked, at_least, at_most) in [
        ("64M", 35, 64),
        ("256M", 215, 256),
        ("3584M", 3400, 3584),
        ("5G", 4900, 5120),
    ] {
        let seen = total(case, asked);
        assert!((at_least..=at_most).contains(&seen), "{asked}: {seen} MiB");
    }
}

fn memory_above_the_hole_can_be_used(case: &Case) {
    // The kernel hands memory out from the top.
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.memory", "4G")
        .mount("/tmp", "tmpfs", "tmpfs", &["size=300m"])
        .shell(
            "head -c 200000000 /dev/urandom >/tmp/a; cp /tmp/a /tmp/b 2>/dev/null
             cmp -n 90000000 /tmp/a /tmp/b && echo same",
        );
    assert_eq!(case.run(&bundle).ok(), "same\n");
}

/// Runs a bundle with additional lines in `[vm]` of the configuration file.
fn run_with(case: &Case, bundle: &Bundle, lines: &str) -> Outcome {
    let text = nacre::configuration();
    let other = case.directory().join("other.toml");
    fs::write(&other, format!("{text}{lines}\n")).unwrap();
    let mut command = case.nacre_with(&other);
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    case.spawn(command).finish()
}

fn its_size_in_the_configuration_file(case: &Case) {
    let bundle = case
        .busybox()
        .shell("nproc; [ $(grep MemTotal /proc/meminfo | tr -dc 0-9) -lt 131072 ] && echo small");
    let output = run_with(case, &bundle, "cpus = 2\nmemory = \"128M\"").ok();
    assert_eq!(output, "2\nsmall\n");
}

fn its_kernel_log_in_a_file(case: &Case) {
    let log = case.directory().join("kernel-log");
    let line = format!("console-log = \"{}\"", log.display());
    run_with(case, &case.busybox(), &line).ok();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("Linux version"), "{text}");
}

fn it_boots_while_another_runs(case: &Case) {
    let bundle = case.busybox().shell("echo ready; cat");
    let mut first = case.start(&bundle);
    first.wait_for_line("ready");
    let mut command = case.nacre();
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(format!("{}-second", case.id()));
    let second = case.spawn(command);
    assert_eq!(second.finish().ok(), "ready\n");
    first.finish().expect(0);
}

fn what_its_kernel_has_logged(case: &Case) {
    let mut running = case.start(&case.busybox().shell("echo ready; read -r _"));
    running.wait_for_line("ready");
    let log = case.command(&["console", case.id()]).ok();
    assert!(log.contains("] Linux version 6."), "{log}");
    assert!(log.lines().all(|line| line.starts_with('[')), "{log}");
    case.command(&["pause", case.id()]).ok();
    let said = case.command(&["console", case.id()]).refused(1);
    assert!(said.contains("paused"), "{said}");
    case.command(&["resume", case.id()]).ok();
    drop(running.stdin.take());
    running.finish();
    let said = case.command(&["console", case.id()]).refused(1);
    assert!(said.contains("does not exist"), "{said}");
}
