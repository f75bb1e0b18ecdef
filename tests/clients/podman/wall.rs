//! A VM's container through the pid that Podman has of it: Podman's own operations there, and
//! containers of other runtimes that join it, see the container and never the host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nacre_tests::nacre;
use nacre_tests::{Case, Outcome};

use super::super::image::BUSYBOX;
use super::Podman;

nacre_tests::tests![
    copies_in_and_out: Vm,
    what_it_says_of_a_vm: Vm,
    joined_by_runc: Vm,
    joined_by_crun: Vm,
    joined_by_nacre: Vm,
    joined_by_a_vm: Vm,
    traced_by_runc: Vm,
];

/// What a container of another runtime prints.
const LOOK: &str = "hostname; ps -o args; ls -A /dev/shm; tr -s ' ' </proc/self/uid_map";

/// The user namespace of the container to be joined.
const IDS: [&str; 4] = ["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000"];

/// Files to copy, and a place for the copies.
struct Scene<'a> {
    podman: Podman<'a>,
    directory: PathBuf,
}

impl<'a> Scene<'a> {
    fn new(case: &'a Case) -> Self {
        let podman = Podman::new(case);
        let directory = case.directory().to_owned();
        for name in ["data", "send/tree", "got"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        fs::write(directory.join("data/file"), "in the volume").unwrap();
        fs::write(directory.join("send/file"), "sent").unwrap();
        fs::write(directory.join("send/tree/inner"), "sent with it").unwrap();
        symlink("/etc/passwd", directory.join("send/tree/link")).unwrap();
        Self { podman, directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    /// Starts a container with a volume and a tmpfs, whose root has a few files in it.
    fn detach(&self) {
        let volume = format!("{}:/data", self.path("data"));
        let flags = ["-v", &volume, "--tmpfs", "/scratch", "--hostname", "inside"];
        let check = [
            "--health-cmd",
            "test -e /made",
            "--health-interval",
            "disable",
        ];
        let script = "mkdir /tree; echo made >/made; echo inner >/tree/inner; echo x >/scratch/x
                      ln -s /nonesuch /tree/link; echo started; exec sleep 1000";
        self.podman.detach(&[&flags[..], &check].concat(), script);
        self.podman.wait_for_log("started");
    }

    #[track_caller]
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap()
    }

    #[track_caller]
    fn shell(&self, script: &str) -> String {
        self.podman.ok(&["exec", "c", "sh", "-c", script])
    }
}

fn copies_in_and_out(case: &Case) {
    let scene = Scene::new(case);
    scene.detach();
    let copy = |from: &str, to: &str| scene.podman.run(&["cp", from, to]);
    for (from, to) in [
        ("send/file", "/sent"),
        ("send/tree", "/sent-tree"),
        ("send/file", "/data/sent"),
    ] {
        copy(&scene.path(from), &format!("c:{to}")).expect(0);
    }
    let script = "cat /sent /sent-tree/inner /data/sent; readlink /sent-tree/link";
    assert_eq!(scene.shell(script), "sentsent with itsent/etc/passwd\n");
    assert_eq!(scene.read("data/sent"), "sent");
    for (from, to) in [("/made", "made"), ("/tree", "tree"), ("/data", "data")] {
        copy(&format!("c:{from}"), &scene.path(&format!("got/{to}"))).expect(0);
    }
    assert_eq!(scene.read("got/made"), "made\n");
    assert_eq!(scene.read("got/tree/inner"), "inner\n");
    let link = fs::read_link(scene.directory.join("got/tree/link")).unwrap();
    assert_eq!(link, Path::new("/nonesuch"));
    assert_eq!(scene.read("got/data/file"), "in the volume");

    // What is in the guest alone can't be reached, and what lies below isn't reached instead.
    let below = PathBuf::from(scene.podman.ok(&["mount", "c"]).trim()).join("scratch");
    for place in ["/scratch/new", "/dev/new", "/proc/new", "/sys/new"] {
        let outcome = copy(&scene.path("send/file"), &format!("c:{place}"));
        assert_ne!(outcome.status(), Some(0), "{place}");
    }
    for place in ["/scratch/x", "/scratch", "/scratch/."] {
        copy(&format!("c:{place}"), &scene.path("got/x")).expect(125);
        assert!(!scene.directory.join("got/x").exists(), "{place}");
    }
    assert_eq!(fs::read_dir(below).unwrap().count(), 0);
    assert_eq!(scene.shell("ls /scratch"), "x\n");
    // No file of the host can be reached.
    for place in [
        scene.path("send/file"),
        format!("/scratch/../..{}", scene.path("send/file")),
    ] {
        copy(&format!("c:{place}"), &scene.path("got/none")).expect(125);
    }
    assert!(!Path::new("/sent").exists() && !Path::new("/sent-tree").exists());
    scene.podman.ok(&["umount", "c"]);
    scene.podman.clear();
}

fn what_it_says_of_a_vm(case: &Case) {
    let scene = Scene::new(case);
    scene.detach();
    let podman = &scene.podman;
    let root = PathBuf::from(podman.ok(&["mount", "c"]).trim());
    assert_eq!(fs::read_to_string(root.join("made")).unwrap(), "made\n");
    podman.ok(&["umount", "c"]);
    let changes = podman.ok(&["diff", "c"]);
    assert!(
        changes.contains("A /made\n") && changes.contains("A /tree/inner\n"),
        "{changes}"
    );
    podman.ok(&["commit", "--quiet", "c", "localhost/committed:test"]);
    let words = ["run", "--rm", "--cgroup-parent", podman.cgroup.path()];
    let committed =
        podman.ok(&[&words[..], &["localhost/committed:test", "cat", "/made"]].concat());
    assert_eq!(committed, "made\n");
    podman.ok(&["export", "--output", &scene.path("exported.tar"), "c"]);
    let mut list = case.mark(std::process::Command::new("tar"));
    list.args(["--list", "--file", &scene.path("exported.tar")]);
    let listed = case.spawn(list).finish().ok();
    assert!(listed.contains("tree/inner\n"), "{listed}");
    // First the guest's processes, listed by its agent; then those on the host, which are the
    // container's.
    let inside = podman.ok(&["top", "c", "-o", "pid,args"]);
    assert!(inside.contains("sleep 1000"), "{inside}");
    let outside = podman.ok(&["top", "c", "pid", "comm", "args"]);
    assert_eq!(outside.lines().count(), 2, "{outside}");
    assert!(outside.contains("nacre: stands for"), "{outside}");
    // By default it would show times as well, which aren't available.
    let outcome = podman.run(&["top", "c"]);
    outcome.expect(125);
    assert!(outcome.stderr.contains("/proc/stat"), "{}", outcome.stderr);
    let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.PIDS}}", "c"]);
    assert!(
        stats.trim().parse::<u32>().is_ok_and(|count| count > 1),
        "{stats}"
    );
    podman.ok(&["healthcheck", "run", "c"]);
    podman.ok(&["container", "clone", "--name", "clone", "c"]);
    let cloned = podman.ok(&["inspect", "--format", "{{.Config.Image}}", "clone"]);
    assert_eq!(cloned, format!("{BUSYBOX}\n"));
    podman.clear();
}

/// Starts the container to be joined, in a user namespace of its own.
fn joined<'a>(case: &'a Case, runtime: &str) -> (Podman<'a>, String) {
    if !runtime.contains('/') {
        case.needs(runtime, runtime);
    }
    let podman = Podman::new(case);
    let flags = ["--hostname", "inside", "--ipc", "shareable"];
    let script = "echo x >/dev/shm/shared; echo started; exec sleep 1000";
    podman.detach(&[&IDS[..], &flags].concat(), script);
    podman.wait_for_log("started");
    (podman, runtime.to_owned())
}

/// Runs a container of another runtime in these namespaces of the first.
fn join((podman, runtime): &(Podman<'_>, String), kinds: &[&str], script: &str) -> Outcome {
    let kinds: Vec<String> = kinds
        .iter()
        .map(|kind| format!("--{kind}=container:c"))
        .collect();
    let mut words = vec!["--runtime", runtime, "run", "--rm"];
    words.extend(["--cgroup-parent", podman.cgroup.path()]);
    words.extend(kinds.iter().map(String::as_str));
    words.extend([BUSYBOX, "sh", "-c", script]);
    podman.run(&words)
}

/// Joins each kind, and all of them: what is joined is the container's.
fn join_all(case: &Case, runtime: &str) {
    let joined = joined(case, runtime);
    let alone = join(&joined, &[], "true");
    if alone.status() != Some(0) {
        joined.0.clear();
        case.ignore(&format!(
            "{runtime} doesn't run here: {}",
            alone.stderr.trim()
        ));
    }
    let own = "0 100000 5000";
    for kinds in [
        &["pid"][..],
        &["ipc"],
        &["uts"],
        &["network"],
        &["userns"],
        &["userns", "pid"],
        &["userns", "ipc", "uts", "pid", "network"],
    ] {
        let outcome = join(&joined, kinds, LOOK);
        let output = outcome.expect(0);
        let lines: Vec<&str> = output.lines().collect();
        let has = |kind: &str| kinds.contains(&kind);
        assert_eq!(lines[0] == "inside", has("uts"), "{kinds:?}: {output}");
        assert_eq!(
            output.contains("stands for"),
            has("pid"),
            "{kinds:?}: {output}"
        );
        assert_eq!(lines.contains(&"shared"), has("ipc"), "{kinds:?}: {output}");
        assert_eq!(output.contains(own), has("userns"), "{kinds:?}: {output}");
        // The shell, ps and what they have joined: none of the host's processes.
        let commands = lines[1..].iter().filter(|line| line.contains(' ')).count();
        assert!(commands <= 5, "{kinds:?}: {output}");
        assert!(
            !output.contains("podman") && !output.contains("conmon"),
            "{kinds:?}: {output}"
        );
    }
    joined.0.clear();
}

fn joined_by_runc(case: &Case) {
    join_all(case, "runc");
}

fn joined_by_crun(case: &Case) {
    join_all(case, "crun");
}

fn joined_by_nacre(case: &Case) {
    let link = case.directory().join("nacre-process");
    symlink(nacre::runtime(), &link).unwrap();
    join_all(case, link.to_str().unwrap());
}

fn joined_by_a_vm(case: &Case) {
    let joined = joined(case, case.binary().to_str().unwrap());
    for (option, kind) in [
        ("pid", "pid"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("userns", "user"),
    ] {
        let outcome = join(&joined, &[option], "true");
        outcome.expect(126);
        let refusal = format!("a VM can't join the {kind} namespace");
        assert!(outcome.stderr.contains(&refusal), "{}", outcome.stderr);
    }
    join(&joined, &["network"], "true").expect(0);
    joined.0.clear();
}

/// The joining container has every right to inspect what it joins.
fn traced_by_runc(case: &Case) {
    case.needs("runc", "runc");
    let scene = Scene::new(case);
    scene.detach();
    let podman = &scene.podman;
    let script = format!(
        "ls /proc/1/root/; cat /proc/1/root/made
         for up in root cwd fd/0 fd/3; do
             for file in {0} ../../../../../../../../..{0}; do
                 cat /proc/1/$up/$file 2>/dev/null && echo reached $up; done; done
         cat /proc/1/environ | tr -d '\\0'; echo x >>/proc/1/exe || echo refused",
        scene.path("send/file")
    );
    let mut words = vec!["--runtime", "runc", "run", "--rm"];
    words.extend(["--cgroup-parent", podman.cgroup.path(), "--pid=container:c"]);
    words.extend(["--privileged", BUSYBOX, "sh", "-c", &script]);
    let output = podman.run(&words).expect(0);
    assert!(output.contains("\nmade\n"), "{output}");
    assert!(output.ends_with("made\nrefused\n"), "{output}");
    podman.clear();
}
