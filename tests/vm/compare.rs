//! `nacre compare`: the same workload in both modes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nacre_tests::{Bundle, Case, Outcome, nacre};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

nacre_tests::tests![
    both_modes_are_measured_and_compared: Vm,
    the_wall_is_looked_at_from_inside: Vm,
    its_page_is_shown_by_a_browser: Vm,
    what_cant_be_seen_isnt_said_to_be_nothing: Vm,
    what_is_shared_between_runs_is_noted: Vm,
    a_workload_that_hangs_is_killed: Vm,
    a_mode_that_cant_run_it_is_named: Vm,
    a_start_is_told_in_phases: Vm,
    nothing_stays_when_it_is_interrupted: Vm,
    nothing_stays_when_it_is_killed: Vm,
];

/// Prints, writes and removes files, tells its kernel, and ends with a status of its own.
const WORKLOAD: &str = "echo one; echo two >&2; echo new >/new; rm /bin/vi; chmod 600 /etc/passwd
uname -r >/kernel; cat /proc/sys/kernel/random/uuid >/time; head -c 200000 /dev/zero; exit 3";

fn compare(case: &Case, bundle: &Bundle, words: &[&str]) -> Command {
    let mut command = case.nacre();
    command.arg("compare").arg("--bundle").arg(bundle.write());
    command.args(words);
    command
}

/// Returns what a comparison says as JSON.
fn document(case: &Case, bundle: &Bundle, words: &[&str]) -> Value {
    let mut command = compare(case, bundle, &["--json", "-"]);
    command.args(words);
    serde_json::from_str(&case.spawn(command).finish().ok()).unwrap()
}

fn busybox(case: &Case) -> Bundle {
    fs::create_dir_all(case.directory().join("tmp")).unwrap();
    case.busybox().set("/root/readonly", false)
}

/// Returns an array's object with this key.
fn keyed<'a>(list: &'a Value, key: &str) -> &'a Value {
    let mut items = list.as_array().unwrap().iter();
    items.find(|item| item["key"] == key).unwrap()
}

fn both_modes_are_measured_and_compared(case: &Case) {
    let bundle = busybox(case).shell(WORKLOAD);
    let root = bundle.rootfs();
    let before = fs::read_dir(&root).unwrap().count();
    let file = case.directory().join("result.json");
    let words = ["--runs", "2", "--json", file.to_str().unwrap()];
    let text = case.spawn(compare(case, &bundle, &words)).finish().ok();
    for expected in ["2 runs in each mode", "COST", "to the first byte", "SAME?"] {
        assert!(text.contains(expected), "{text}");
    }
    let document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        (&document["version"], &document["runs"]),
        (&json!(1), &json!(2))
    );
    let cost = &document["cost"];
    for key in [
        "time_to_first_byte",
        "time_to_exit",
        "cpu_workload",
        "cpu_host",
        "cpu_commands",
        "memory_host",
        "storage_root",
    ] {
        for mode in ["process", "vm"] {
            let value = &keyed(cost, key)[mode]["value"];
            assert!(
                value["median"].as_f64().unwrap() > 0.0,
                "{key} {mode}: {value}"
            );
            assert_eq!(value["runs"].as_array().unwrap().len(), 2);
        }
        // Two runs are too few for a verdict.
        assert_eq!(keyed(cost, key)["ratio"], Value::Null);
    }
    assert!(keyed(cost, "cpu_file_server")["process"]["missing"].is_string());
    assert!(
        keyed(cost, "cpu_file_server")["vm"]["value"]["median"]
            .as_f64()
            .unwrap()
            > 0.0
    );

    let same = &document["same"];
    for (key, is, detail) in [
        ("status", "same", "3"),
        ("stdout", "same", "200004 bytes"),
        ("stderr", "same", "4 bytes"),
    ] {
        let of = keyed(same, key);
        assert_eq!((&of["is"], &of["details"]), (&json!(is), &json!([detail])));
    }
    let files = keyed(same, "files");
    let details = json!([
        "kernel: content",
        "1 that differ from run to run in one mode"
    ]);
    assert_eq!(
        (&files["is"], &files["details"]),
        (&json!("different"), &details)
    );

    // The bundle's own root has none of it.
    assert_eq!(fs::read_dir(&root).unwrap().count(), before);
    assert!(root.join("bin/vi").exists());
}

fn the_wall_is_looked_at_from_inside(case: &Case) {
    let refused = json!({ "names": ["bpf"], "action": "SCMP_ACT_ERRNO" });
    let bundle = busybox(case)
        .set("/linux/seccomp/defaultAction", "SCMP_ACT_ALLOW")
        .push("/linux/seccomp/syscalls", refused)
        .shell("true");
    let wall = &document(case, &bundle, &["--runs", "1"])["wall"]["Ok"];
    let line = |key, mode| keyed(&wall["lines"], key)[mode].as_str().unwrap();
    assert!(line("kernel", "process").starts_with("the host's, "));
    assert!(line("kernel", "vm").starts_with("its own, 6."));
    let both = |key| (line(key, "process"), line(key, "vm"));
    for key in ["capabilities", "devices", "processes", "restraints"] {
        let (process, vm) = both(key);
        assert_eq!(process, vm, "{key}");
    }
    for mode in ["process", "vm"] {
        let answered = line("system_calls", mode).split(',').next().unwrap();
        assert!(answered.parse::<u32>().unwrap() > 250, "{mode}: {answered}");
        let sensitive = line("sensitive_calls", mode);
        assert!(
            sensitive.contains("ptrace") && !sensitive.contains("bpf"),
            "{mode}: {sensitive}"
        );
        assert!(line("restraints", mode).contains("seccomp"));
        assert!(line("proc", mode).contains(" can be read"));
    }
    assert!(line("namespaces", "vm").starts_with("none"));
    assert!(line("namespaces", "process").contains("user"));
    assert!(line("confinement", "process").starts_with("init: uid 0"));
    for part in ["sandbox", "monitor", "file-server", "stand-in"] {
        assert!(line("confinement", "vm").contains(&format!("{part}: uid ")));
    }
    let enforced = wall["enforced"].as_array().unwrap();
    let seccomp = enforced
        .iter()
        .find(|it| it["field"] == "linux.seccomp")
        .unwrap();
    assert_eq!(seccomp["vm"], "the guest's kernel");
    assert!(wall["host"].as_array().unwrap().len() > 3);
}

/// Returns what a browser without a window does with a page.
fn browse(case: &Case, page: &Path, words: &[&str]) -> Outcome {
    let mut command = case.mark(Command::new("chromium"));
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-breakpad",
        ])
        .args(["--enable-logging=stderr", "--hide-scrollbars"])
        .arg(format!(
            "--user-data-dir={}",
            case.directory().join("chromium").display()
        ))
        .args(words)
        .arg(format!("file://{}", page.display()));
    case.spawn(command).finish()
}

fn its_page_is_shown_by_a_browser(case: &Case) {
    if Command::new("chromium").arg("--version").output().is_err() {
        case.ignore("there is no chromium");
    }
    let bundle = busybox(case).shell("echo '<script>console.error(1)</script>'; uname -r");
    let page = case.directory().join("page.html");
    let words = ["--runs", "1", "--html", page.to_str().unwrap()];
    case.spawn(compare(case, &bundle, &words)).finish().ok();
    let text = fs::read_to_string(&page).unwrap();
    for foreign in ["http://", "https://", "<script", "@import", "url("] {
        let namespace = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!namespace.contains(foreign), "{foreign}");
    }

    let shown = browse(case, &page, &["--dump-dom"]);
    let dom = shown.expect(0);
    for element in [
        "<section id=\"cost\">",
        "<section id=\"wall\">",
        "<section id=\"same\">",
        "<tr id=\"time_to_exit\">",
        "<tr id=\"kernel\">",
        "<tr id=\"stdout\">",
        "<rect class=\"process\"",
        "<rect class=\"vm\"",
    ] {
        assert!(dom.contains(element), "{element} isn't in {dom}");
    }
    assert!(!shown.stderr.contains("CONSOLE"), "{}", shown.stderr);

    for width in [1200, 400] {
        let picture = case.directory().join(format!("{width}.png"));
        let screenshot = format!("--screenshot={}", picture.display());
        let size = format!("--window-size={width},1000");
        let shown = browse(case, &page, &[&screenshot, &size]);
        assert!(!shown.stderr.contains("CONSOLE"), "{}", shown.stderr);
        let png = fs::read(picture).unwrap();
        // The header's width (PNG, 11.2.1), and more than an empty page takes.
        assert_eq!(png[16..20], u32::to_be_bytes(width));
        assert!(png.len() > 10_000, "{} bytes", png.len());
    }
}

fn what_cant_be_seen_isnt_said_to_be_nothing(case: &Case) {
    let refused =
        json!({ "names": ["fork", "vfork", "clone", "clone3"], "action": "SCMP_ACT_ERRNO" });
    let bundle = busybox(case)
        .set("/mounts", json!([]))
        .set("/linux/seccomp/defaultAction", "SCMP_ACT_ALLOW")
        .push("/linux/seccomp/syscalls", refused)
        .shell(":");
    let wall = &document(case, &bundle, &["--runs", "1"])["wall"]["Ok"];
    for mode in ["process", "vm"] {
        for (key, expected) in [
            ("capabilities", "not known: the container has no /proc"),
            ("restraints", "not known: the container has no /proc"),
            ("processes", "not known: the container has no /proc"),
            ("proc", "it isn't there"),
            ("system_calls", "they couldn't be tried"),
            ("sensitive_calls", "they couldn't be tried"),
        ] {
            assert_eq!(keyed(&wall["lines"], key)[mode], expected, "{key}");
        }
    }
}

fn what_is_shared_between_runs_is_noted(case: &Case) {
    fs::create_dir(case.directory().join("volume")).unwrap();
    // Relative to the bundle, as the runtime spec has it.
    let bundle = busybox(case)
        .set("/process/terminal", true)
        .mount("/volume", "bind", "volume", &["bind", "rw"])
        .shell("exit 1");
    let words = [
        "--runs",
        "1",
        "--",
        "/bin/sh",
        "-c",
        "echo $0 >>/volume/lines; test ! -t 0",
        "word",
    ];
    let document = document(case, &bundle, &words);
    assert_eq!(keyed(&document["same"], "status")["details"], json!(["0"]));
    let notes = document["notes"].to_string();
    assert!(
        notes.contains("no terminal") && notes.contains("at /volume"),
        "{notes}"
    );
    let lines = fs::read_to_string(case.directory().join("volume/lines")).unwrap();
    assert_eq!(lines, "word\n".repeat(4));
}

fn a_workload_that_hangs_is_killed(case: &Case) {
    let bundle = busybox(case).shell("echo begun; sleep 1000");
    let document = document(case, &bundle, &["--runs", "1", "--timeout", "6s"]);
    let status = keyed(&document["same"], "status");
    assert_eq!(
        status["details"],
        json!(["killed, since it ran longer than --timeout"])
    );
    assert_eq!(
        keyed(&document["same"], "stdout")["details"],
        json!(["not every run came to its end"])
    );
}

fn a_mode_that_cant_run_it_is_named(case: &Case) {
    let bundle = busybox(case).args(["/nothing/of/this/name"]);
    let said = case.spawn(compare(case, &bundle, &[])).finish().refused(1);
    assert!(said.contains("--isolation=process"), "{said}");
    let bundle = busybox(case)
        .annotation("dev.nacre.vm.memory", "1K")
        .shell("true");
    let said = case.spawn(compare(case, &bundle, &[])).finish().refused(1);
    assert!(
        said.contains("--isolation=vm") && said.contains("dev.nacre.vm.memory"),
        "{said}"
    );
}

fn a_start_is_told_in_phases(case: &Case) {
    let bundle = busybox(case).shell("sleep 1; echo first; sleep 1; echo second");
    let trace = case.directory().join("trace.json");
    let boot = |words: &[&str]| {
        let mut command = case.nacre();
        command.arg("boot").arg("--bundle").arg(bundle.write());
        command.args(words);
        case.spawn(command).finish().ok()
    };
    let common = ["container", "created", "asked", "exec", "first byte"];
    let of_vm = [
        "plan",
        "sandbox",
        "processes",
        "machine",
        "confinement",
        "kernel: memory",
        "kernel: processors",
        "kernel: drivers",
        "hello",
        "network",
        "container",
        "shown",
        "left",
        "created",
        "asked",
        "exec",
        "first byte",
    ];
    for (isolation, expected) in [("process", &common[..]), ("vm", &of_vm)] {
        let isolation = format!("--isolation={isolation}");
        let words = [
            "--json",
            "-",
            "--trace",
            trace.to_str().unwrap(),
            &isolation,
        ];
        let document: Value = serde_json::from_str(&boot(&words)).unwrap();
        let phases = document["phases"].as_array().unwrap();
        let mut names: Vec<_> = phases
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        // Only KVM's memory is made by nacre.
        names.retain(|name| *name != "memory");
        assert_eq!(names[0], "configuration");
        assert_eq!(names[1..], *expected);
        let mut next = 0;
        for phase in phases {
            assert_eq!(phase["begin"], next);
            next += phase["duration"].as_u64().unwrap();
            assert!(!phase["about"].as_str().unwrap().is_empty());
        }
        let last = phases.last().unwrap()["duration"].as_u64().unwrap();
        assert!(
            (1_000_000_000..60_000_000_000).contains(&last),
            "{phases:?}"
        );
        let trace: Value = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), phases.len());
        assert!(events.iter().all(|event| event["ph"] == "X"));
    }
    let text = boot(&["--isolation=process"]);
    assert!(
        text.contains("PHASE") && text.contains("namespaces, cgroup"),
        "{text}"
    );
    case.expect_nothing("boot");
}

/// Starts a comparison of workloads that never end, and waits until one of them runs in this mode.
fn begin(case: &Case, mode: &str) -> nacre::Running {
    fs::create_dir_all(case.directory().join("volume")).unwrap();
    let script = "uname -r >>/volume/running; test -e /volume/go || sleep 1000";
    let bundle = busybox(case)
        .mount("/volume", "bind", "volume", &["bind", "rw"])
        .shell(script);
    let volume = case.directory().join("volume");
    if mode == "vm" {
        // The first run, on the host's kernel, ends at once.
        fs::write(volume.join("go"), "").unwrap();
    }
    let running = case.spawn(compare(case, &bundle, &["--runs", "1"]));
    let expected = if mode == "vm" { 2 } else { 1 };
    let end = Instant::now() + Duration::from_secs(200);
    let lines = || fs::read_to_string(volume.join("running")).map_or(0, |it| it.lines().count());
    while lines() < 1 {
        assert!(Instant::now() < end, "no run has begun");
        thread::sleep(Duration::from_millis(20));
    }
    let _ = fs::remove_file(volume.join("go"));
    while lines() < expected {
        assert!(Instant::now() < end, "no run has begun in a VM");
        thread::sleep(Duration::from_millis(20));
    }
    running
}

fn nothing_stays_when_it_is_interrupted(case: &Case) {
    for (mode, signal) in [("process", Signal::SIGINT), ("vm", Signal::SIGTERM)] {
        let running = begin(case, mode);
        running.signal(signal);
        let said = running.finish().refused(128 + signal as i32);
        assert!(said.contains("interrupted"), "{said}");
        case.expect_nothing(mode);
        let _ = fs::remove_file(case.directory().join("volume/running"));
    }
}

fn nothing_stays_when_it_is_killed(case: &Case) {
    for mode in ["process", "vm"] {
        let mut running = begin(case, mode);
        // What it writes is on the host's disk, where a set-user-id program of its would be one.
        let tmp = case.directory().join("tmp");
        let workspace = fs::read_dir(tmp).unwrap().next().unwrap().unwrap();
        assert_eq!(workspace.metadata().unwrap().mode() & 0o7777, 0o700);
        running.kill();
        case.expect_nothing(mode);
        let tmp = case.directory().join("tmp");
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "{mode}");
        let _ = fs::remove_file(case.directory().join("volume/running"));
    }
}
