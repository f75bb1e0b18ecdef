//! What each thread of a VM's processes may do on the host, from outside: what the table in
//! docs/threat-model.md says, and nothing that isn't in it. What the table says of Landlock only shows
//! from inside (`landlock.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nacre_tests::vm::{self, Role};
use nacre_tests::{Bundle, Case};
use nix::unistd::Pid;

use super::network::{Lan, in_namespace};
use super::overlay::{DISK, overlay};

nacre_tests::tests![
    every_thread_has_what_the_table_says: Vm,
    every_process_has_the_limits_of_the_table: Vm,
];

const PAGE: &str = include_str!("../../docs/threat-model.md");

/// What the table's first column begins with.
const HEAD: &str = "| process | threads |";

/// A file in the container's root, and in its volume.
const MARK: &str = "mark-of-the-container";

/// Capabilities by their numbers (`linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All kinds of namespaces that a thread may have of its own.
const NAMESPACES: [&str; 8] = ["mnt", "ipc", "uts", "net", "pid", "cgroup", "user", "time"];

/// A row of the table: which threads, and what they have.
#[derive(Debug)]
pub(super) struct Row<'a> {
    process: &'a str,
    threads: Vec<&'a str>,
    has: Rights<'a>,
    /// Which files Landlock leaves it.
    pub(super) landlock: &'a str,
}

/// What a thread has, in the table's words.
#[derive(Debug, PartialEq, Eq)]
struct Rights<'a> {
    user: &'a str,
    capabilities: BTreeSet<&'a str>,
    filter: &'a str,
    namespaces: BTreeSet<&'a str>,
    root: &'a str,
}

/// Returns the words of a cell, without the marks of code.
fn words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(',')
        .map(|word| word.trim().trim_matches('`'))
        .filter(|word| *word != "none")
}

/// Returns this process's capabilities. Where root lacks some, as in many containers, so does
/// whatever it starts.
pub(super) fn own_capabilities() -> BTreeSet<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    capabilities(u64::from_str_radix(set.unwrap().trim(), 16).unwrap())
}

/// Returns the names of the capabilities in a set.
fn capabilities(set: u64) -> BTreeSet<&'static str> {
    let numbered = CAPABILITIES.into_iter().enumerate();
    let has = numbered.filter(|(number, _)| set >> number & 1 == 1);
    has.map(|(_, name)| name).collect()
}

/// Reads the table, as it is for a root who has these capabilities.
pub(super) fn table(available: &BTreeSet<&'static str>) -> Vec<Row<'static>> {
    let (_, below) = PAGE.split_once(HEAD).expect("the table of threads");
    let lines = below
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let read = |line: &'static str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [
            process,
            threads,
            user,
            capabilities,
            filter,
            namespaces,
            root,
            landlock,
        ] = cells[..]
        else {
            panic!("not eight cells: {line}");
        };
        let has = Rights {
            user,
            capabilities: words(capabilities)
                .inspect(|name| assert!(CAPABILITIES.contains(name), "{name}"))
                .filter(|name| available.contains(name))
                .collect(),
            filter,
            namespaces: words(namespaces).collect(),
            root,
        };
        Row {
            process,
            threads: words(threads).collect(),
            has,
            landlock,
        }
    };
    lines.map(read).collect()
}

impl Row<'_> {
    /// Returns whether the row is about a thread of this name, `main` for a process's first.
    pub(super) fn names(&self, process: &str, thread: &str) -> bool {
        let names = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(begin) => thread.starts_with(begin),
            None => thread == *pattern,
        };
        self.process == process && self.threads.iter().any(names)
    }
}

/// Reads what a thread has; fails if it has anything that no thread should have.
#[track_caller]
fn found(case: &Case, task: &Path) -> Rights<'static> {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("no {name}"))
            .trim_start_matches(':')
            .trim()
    };
    let set = |name: &str| u64::from_str_radix(field(name), 16).unwrap();
    for none in ["CapInh", "CapAmb", "CapBnd"] {
        assert_eq!(set(none), 0, "{none} {status}");
    }
    assert_eq!(field("NoNewPrivs"), "1", "{status}");
    assert_eq!(set("CapEff"), set("CapPrm"), "{status}");
    assert_eq!(set("CapPrm") >> CAPABILITIES.len(), 0, "{status}");
    let users: BTreeSet<&str> = field("Uid").split('\t').collect();
    let user = match Vec::from_iter(users)[..] {
        ["0"] => "root",
        [one] if one.parse::<u32>().unwrap() > 0x6e00_0000 => "its own",
        ref other => panic!("{other:?}"),
    };
    let of = |kind: &str, process: &Path| fs::read_link(process.join("ns").join(kind)).ok();
    let own = |kind: &&str| of(kind, task) != of(kind, Path::new("/proc/self"));
    Rights {
        user,
        capabilities: capabilities(set("CapPrm")),
        filter: match field("Seccomp") {
            "0" => "none",
            "2" => "yes",
            other => panic!("mode {other}"),
        },
        namespaces: NAMESPACES.into_iter().filter(own).collect(),
        root: root(case, &task.join("root")),
    }
}

/// Says what a root shows; fails if it shows anything of the host's beside the container.
#[track_caller]
fn root(case: &Case, root: &Path) -> &'static str {
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap());
    let hosts = case.directory().join("of-the-host");
    assert!(
        hosts.exists() && !inside(&hosts).exists(),
        "{}",
        root.display()
    );
    let marked = |directory: PathBuf| directory.join(MARK).exists();
    if marked(root.join("volume")) {
        "the container's"
    } else if ["", "mounts/0", "rootfs"]
        .into_iter()
        .any(|tree| marked(root.join(tree)))
    {
        "the share"
    } else if inside(&case.state()).exists() {
        "its home"
    } else if fs::read_dir(root).unwrap().next().is_none() {
        "nothing"
    } else {
        "libraries"
    }
}

/// Makes a container with a thread of every kind.
pub(super) fn bundle(case: &Case, lan: &Lan<'_>) -> Bundle {
    lan.add("a");
    lan.attach("a", "eth0", "one", 2);
    let volume = case.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join(MARK), "").unwrap();
    fs::write(case.directory().join("of-the-host"), "").unwrap();
    let script = "echo ready; exec sleep 1000";
    let bundle = in_namespace(
        case.busybox().shell(script),
        lan.network.named("a").to_str().unwrap(),
    );
    fs::write(bundle.rootfs().join(MARK), "").unwrap();
    let source = volume.to_str().unwrap();
    overlay(
        bundle.mount("/volume", "bind", source, &["rbind", "rw"]),
        DISK,
    )
}

fn every_thread_has_what_the_table_says(case: &Case) {
    let lan = Lan::new(case);
    case.detach(&bundle(case, &lan));
    case.wait_for_output("ready");
    let sandboxes = vm::with_role(case.id(), Role::Sandbox);
    let file_servers = vm::with_role(case.id(), Role::FileServer);
    assert_eq!(file_servers.len(), 1);
    assert!(sandboxes.contains(&vm::parent(file_servers[0])));
    let table = table(&own_capabilities());
    let mut matched = BTreeSet::new();
    for (pid, role) in vm::processes(case.id()) {
        // It holds the test's own network.
        if fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n" {
            continue;
        }
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = thread.unwrap().path();
            let name = name(pid, &task);
            // The kernel's own, which it shows as the process's since Linux 6.13.
            if name.starts_with("kvm-") {
                continue;
            }
            let process = match role {
                Role::Sandbox => "sandbox",
                Role::StandIn => "stand-in",
                Role::Monitor => "monitor",
                Role::FileServer => "files",
                Role::Qemu => "QEMU",
                Role::Outside => panic!("{pid} is outside"),
            };
            let mut rows = table.iter().enumerate();
            let (index, row) = rows
                .find(|(_, row)| row.names(process, &name))
                .unwrap_or_else(|| panic!("no row for {process}: {name}"));
            assert_eq!(found(case, &task), row.has, "{process}: {name}");
            matched.insert(index);
        }
    }
    // A row that is about nothing is wrong, too.
    let other = if case.is_emulated() {
        "vcpu*"
    } else {
        "vhost-*"
    };
    for (index, row) in table.iter().enumerate() {
        let elsewhere = row.threads.contains(&other)
            || !case.is_emulated() && (row.process == "QEMU" || row.threads == ["qemu"]);
        assert_ne!(matched.contains(&index), elsewhere, "{row:?}");
    }
    case.remove_container();
}

/// What the first column of the table of limits begins with.
const LIMITS_HEAD: &str = "| process | open files |";

/// The limits that the other columns are about, as `/proc/PID/limits` calls them.
const LIMITS: [&str; 5] = [
    "Max open files",
    "Max processes",
    "Max file size",
    "Max locked memory",
    "Max core file size",
];

/// The guest's memory, in bytes.
const MEMORY: u64 = 256 << 20;

/// The size of its disk ([`DISK`]).
const DISK_SIZE: u64 = 24 << 20;

/// A process's limits of that name, soft and hard.
#[track_caller]
fn limits(pid: &str, name: &str) -> [u64; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let values = text.lines().find_map(|line| line.strip_prefix(name));
    let values = values.unwrap_or_else(|| panic!("no {name}"));
    let mut values = values.split_whitespace().map(|value| match value {
        "unlimited" => u64::MAX,
        number => number.parse().unwrap(),
    });
    [(); 2].map(|()| values.next().unwrap())
}

fn every_process_has_the_limits_of_the_table(case: &Case) {
    let script = "echo ready; exec sleep 1000";
    let bundle = overlay(case.busybox().shell(script), DISK);
    let memory = MEMORY.to_string();
    case.detach(&bundle.annotation("dev.nacre.vm.memory", &memory));
    case.wait_for_output("ready");
    let (_, below) = PAGE.split_once(LIMITS_HEAD).expect("the table of limits");
    let lines = below.lines().skip(2);
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let role = match cells[0] {
            "sandbox" => Role::Sandbox,
            "monitor" => Role::Monitor,
            "files" => Role::FileServer,
            "QEMU" if case.is_emulated() => Role::Qemu,
            "QEMU" => continue,
            other => panic!("{other}"),
        };
        let processes = vm::with_role(case.id(), role);
        assert!(!processes.is_empty(), "{role:?}");
        for (pid, (name, cell)) in processes
            .iter()
            .flat_map(|pid| LIMITS.iter().zip(&cells[1..]).map(move |it| (pid, it)))
        {
            let found = limits(&pid.to_string(), name);
            let wanted = match *cell {
                "-" => continue,
                "its disk's" => DISK_SIZE,
                "its guest's and 1024" => MEMORY / 4096 + 1024,
                "its devices'" | "its processors'" => {
                    assert!((1..1024).contains(&found[1]), "{role:?}: {name} {found:?}");
                    found[1]
                }
                number => number.parse().unwrap(),
            };
            let [_, of_caller] = limits("self", name);
            // Who may raise limits does.
            let raised = own_capabilities().contains("SYS_RESOURCE") && role == Role::FileServer;
            let wanted = if raised {
                wanted
            } else {
                wanted.min(of_caller)
            };
            assert_eq!(found, [wanted; 2], "{role:?}: {name}");
        }
    }
    case.remove_container();
}

/// Returns a thread's name, `main` for the first of its process.
pub(super) fn name(pid: Pid, task: &Path) -> String {
    if task.file_name().unwrap().to_str() == Some(&pid.to_string()) {
        return "main".into();
    }
    fs::read_to_string(task.join("comm"))
        .unwrap()
        .trim_end()
        .into()
}
