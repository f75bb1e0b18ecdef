//! What can be refused without touching the system.
//!
//! A field that the engine doesn't honour is refused by name, unless its value asks for
//! nothing. Properties that the spec doesn't have are ignored, as it demands.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use super::{ConfigError, NEWEST_MINOR};
use crate::container::affinity::Affinity;
use crate::container::capabilities::Sets;
use crate::container::cgroups::{self, Cgroup};
use crate::container::mounts::{self, Mount};
use crate::container::process::Program;
use crate::container::rootfs::Propagation;
use crate::container::{
    devices, hooks, id_map, io_priority, memory_policy, namespaces, net_devices, rlimits,
    scheduler, seccomp, sysctl, terminal,
};

/// The kernel's limit on host and domain names, in bytes.
const MAX_HOSTNAME: usize = 64;

/// The kernel's limit on groups.
const MAX_GROUPS: usize = 65536;

/// The kernel's range for `oom_score_adj`.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Checks everything about `spec` that can be checked without touching the system.
///
/// # Errors
///
/// As [`ConfigError`] tells, with the path of the field.
pub fn validate(spec: &Spec) -> Result<(), ConfigError> {
    version(spec.version())?;
    let root = spec.root().as_ref().ok_or(missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(missing("root.path"));
    }
    let linux = spec.linux().as_ref().ok_or(missing("linux"))?;
    let process = spec.process().as_ref().ok_or(missing("process"))?;
    validate_process(process)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let mount = Mount::parse(index, mount)?;
        if let Some(linux) = spec.linux() {
            mount.validate_ids(linux)?;
        }
    }
    refuse([("vm", spec.vm().is_some())])?;
    elsewhere([
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("zos", spec.zos().is_some()),
    ])?;
    if let Some(list) = spec.hooks() {
        hooks::validate(list)?;
    }
    validate_linux(linux)?;
    id_map::validate_user(linux, process)?;
    if !has_new_namespace(linux, LinuxNamespaceType::Mount) {
        without_mount_namespace(spec, linux)?;
    }
    names(spec)
}

fn missing(field: &str) -> ConfigError {
    ConfigError::missing(field)
}

/// Refuses the first field that asks for something.
fn refuse<const N: usize>(fields: [(&str, bool); N]) -> Result<(), ConfigError> {
    match fields.iter().find(|(_, asks)| *asks) {
        Some((field, _)) => Err(ConfigError::unsupported(*field)),
        None => Ok(()),
    }
}

/// Refuses the first field that asks for something, when none of them is for Linux.
fn elsewhere<const N: usize>(fields: [(&str, bool); N]) -> Result<(), ConfigError> {
    match fields.iter().find(|(_, asks)| *asks) {
        Some((field, _)) => {
            let problem = "it is for containers of another operating system";
            Err(ConfigError::invalid(*field, problem))
        }
        None => Ok(()),
    }
}

fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn says(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// Versions of the spec are compatible within a major one, in that what knows 1.2 knows all
/// that 1.1 may ask for (and not the other way round).
fn version(version: &str) -> Result<(), ConfigError> {
    if version.is_empty() {
        return Err(missing("ociVersion"));
    }
    // Semantic versioning: numbers, and then perhaps `-rc1` or `+dev`.
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = numbers.split('.').map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(minor), Some(_)] if minor <= NEWEST_MINOR => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(ConfigError::invalid(
            "ociVersion",
            format!("{version:?} isn't known here, only 1.0 to 1.{NEWEST_MINOR} are"),
        )),
        _ => Err(ConfigError::invalid(
            "ociVersion",
            format!("{version:?} isn't a version (such as 1.2.0)"),
        )),
    }
}

/// Checks everything about `process` that can be checked without touching the system, and
/// without its container's configuration.
///
/// # Errors
///
/// As [`ConfigError`] tells, with the path of the field.
pub fn validate_process(process: &Process) -> Result<(), ConfigError> {
    elsewhere([
        ("process.user.username", says(process.user().username())),
        ("process.commandLine", says(process.command_line())),
    ])?;
    if let Some(scheduler) = process.scheduler() {
        scheduler::validate(scheduler)?;
    }
    Affinity::parse(process)?;
    if let Some(priority) = process.io_priority() {
        io_priority::validate(priority)?;
    }
    terminal::validate(process)?;
    Program::parse(process)?;
    rlimits::validate(process.rlimits().as_deref().unwrap_or_default())?;
    if let Some(name) = Sets::of(process.capabilities().as_ref()).effective_without_permitted() {
        return Err(ConfigError::invalid(
            "process.capabilities.effective",
            format!("{name} isn't in the permitted set"),
        ));
    }
    if let Some(adjustment) = process.oom_score_adj()
        && !OOM_SCORE_ADJ.contains(&adjustment)
    {
        return Err(ConfigError::invalid(
            "process.oomScoreAdj",
            format!("{adjustment} isn't between -1000 and 1000"),
        ));
    }
    let user = process.user();
    let groups = user.additional_gids().as_ref().map_or(0, Vec::len);
    if groups > MAX_GROUPS {
        return Err(ConfigError::invalid(
            "process.user.additionalGids",
            format!("{groups} groups are over the kernel's limit of {MAX_GROUPS}"),
        ));
    }
    // The kernel takes it for "leave as it is".
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == u32::MAX {
            return Err(ConfigError::invalid(
                format!("process.user.{field}"),
                format!("{id} isn't an id"),
            ));
        }
    }
    if let Some(umask) = user.umask()
        && umask > 0o777
    {
        return Err(ConfigError::invalid(
            "process.user.umask",
            format!("{umask:#o} is over 0o777"),
        ));
    }
    Ok(())
}

fn validate_linux(linux: &Linux) -> Result<(), ConfigError> {
    refuse([("linux.intelRdt", linux.intel_rdt().is_some())])?;
    if let Some(policy) = linux.memory_policy() {
        memory_policy::validate(policy)?;
    }
    if linux
        .personality()
        .as_ref()
        .is_some_and(|p| some(p.flags()))
    {
        let problem = "the runtime spec has no flag that could be set";
        return Err(ConfigError::invalid("linux.personality.flags", problem));
    }
    if let Some(seccomp) = linux.seccomp() {
        seccomp::validate(seccomp)?;
    }
    net_devices::validate(linux)?;
    namespace_list(linux)?;
    id_map::validate(linux)?;
    namespaces::validate_time_offsets(linux)?;
    devices::list(linux.devices().as_deref().unwrap_or_default())?;
    if let Some(value) = linux.rootfs_propagation()
        && Propagation::parse(value).is_none()
    {
        return Err(ConfigError::invalid(
            "linux.rootfsPropagation",
            format!("{value:?} isn't private, slave, shared or unbindable"),
        ));
    }
    for (field, paths) in [
        ("linux.maskedPaths", linux.masked_paths()),
        ("linux.readonlyPaths", linux.readonly_paths()),
    ] {
        for (index, path) in paths.iter().flatten().enumerate() {
            let problem = if !Path::new(path).is_absolute() {
                "isn't absolute"
            } else if mounts::clean(Path::new(path)) == Path::new("/") {
                "is the root"
            } else {
                continue;
            };
            return Err(ConfigError::invalid(
                format!("{field}[{index}]"),
                format!("{path:?} {problem}"),
            ));
        }
    }
    if let Some(resources) = linux.resources() {
        Cgroup::validate(resources)?;
    }
    if let Some(path) = linux
        .cgroups_path()
        .as_ref()
        .filter(|p| !p.as_os_str().is_empty())
    {
        cgroups::cgroup_path(Some(path), "")?;
    }
    Ok(())
}

fn namespace_list(linux: &Linux) -> Result<(), ConfigError> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let kind = namespace.typ();
        if namespaces.iter().take(index).any(|n| n.typ() == kind) {
            return Err(ConfigError::invalid(
                field,
                format!("there are two {kind} namespaces"),
            ));
        }
        let path = namespace.path().as_ref();
        let path = path.filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path
            && !path.is_absolute()
        {
            let problem = format!("{path:?} isn't absolute");
            return Err(ConfigError::invalid(format!("{field}.path"), problem));
        }
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let field = || format!("linux.sysctl.{name}");
        match sysctl::namespace(name) {
            Some(kind) if has_namespace(linux, kind) => {}
            Some(kind) => {
                let problem = format!("it needs a {kind} namespace, which the container lacks");
                return Err(ConfigError::invalid(field(), problem));
            }
            None => {
                let problem = "it isn't a parameter of a namespace, but of the whole kernel";
                return Err(ConfigError::invalid(field(), problem));
            }
        }
    }
    Ok(())
}

/// Refuses what would be mounted, or made for good, in a mount namespace of others.
fn without_mount_namespace(spec: &Spec, linux: &Linux) -> Result<(), ConfigError> {
    let readonly = spec.root().as_ref().and_then(|root| root.readonly());
    for (field, asks) in [
        ("mounts", some(spec.mounts())),
        ("root.readonly", readonly == Some(true)),
        ("linux.maskedPaths", some(linux.masked_paths())),
        ("linux.readonlyPaths", some(linux.readonly_paths())),
        ("linux.rootfsPropagation", says(linux.rootfs_propagation())),
        ("linux.devices", some(linux.devices())),
    ] {
        if asks {
            let problem = "it needs a new mount namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}

fn has_new_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == kind && n.path().iter().all(|p| p.as_os_str().is_empty()))
}

fn has_namespace(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|n| n.typ() == kind)
}

fn names(spec: &Spec) -> Result<(), ConfigError> {
    let has_uts = spec
        .linux()
        .as_ref()
        .is_some_and(|linux| has_namespace(linux, LinuxNamespaceType::Uts));
    for (field, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !has_uts {
            let problem = "it needs a uts namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
        if name.len() > MAX_HOSTNAME {
            let problem = format!(
                "{} bytes are over the kernel's limit of {MAX_HOSTNAME}",
                name.len()
            );
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{load, tests::sample};
    use crate::container::describe;

    /// What loading the sample gives with `value` at `pointer`, whose last part may be new.
    fn load_with(pointer: &str, value: Value) -> Result<(), String> {
        let mut config = sample();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = value;
        load(config.to_string().as_bytes())
            .map(drop)
            .map_err(|e| describe(&e))
    }

    #[test]
    fn versions_of_the_spec_that_are_known_are_taken() {
        for version in [
            "1.0.0",
            "1.0.0-rc5",
            "1.0.2-dev",
            "1.1.0",
            "1.2.1",
            "1.2.0+x",
            "1.3.0",
        ] {
            load_with("/ociVersion", json!(version)).unwrap();
        }
        for version in ["0.9.0", "2.0.0", "1.4.0", "9.9.9"] {
            let error = load_with("/ociVersion", json!(version)).unwrap_err();
            assert!(error.contains("isn't known here"), "{error}");
        }
        for version in ["1", "1.0", "one", "1.0.x", "1.0.0.0", "-1.0.0", "v1.0.0"] {
            let error = load_with("/ociVersion", json!(version)).unwrap_err();
            assert!(error.contains("isn't a version"), "{error}");
        }
    }

    #[test]
    fn what_is_not_done_yet_is_refused_by_name() {
        for (pointer, value) in [
            ("/vm", json!({"kernel": {"path": "/x"}})),
            ("/linux/intelRdt", json!({"closID": "x"})),
        ] {
            let field = pointer[1..].replace('/', ".");
            assert_eq!(
                load_with(pointer, value).unwrap_err(),
                format!("{field} isn't supported yet")
            );
        }
    }

    #[test]
    fn values_that_ask_for_nothing_are_taken() {
        for (pointer, value) in [
            ("/process/terminal", Value::Null),
            ("/process/consoleSize", json!({"height": 1, "width": 1})),
            ("/process/apparmorProfile", json!("")),
            ("/process/selinuxLabel", json!("")),
            ("/process/capabilities", Value::Null),
            ("/process/rlimits", json!([])),
            ("/hooks", json!({"prestart": [], "poststop": null})),
            ("/hooks", json!({})),
            ("/linux/uidMappings", json!([])),
            (
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}),
            ),
            ("/linux/mountLabel", json!("")),
            ("/linux/rootfsPropagation", json!("")),
            ("/linux/cgroupsPath", json!("")),
            ("/linux/resources", json!({})),
            ("/linux/maskedPaths", Value::Null),
            ("/annotations", json!({"a": "b"})),
            ("/hostname", json!("")),
            ("/somethingElse", json!({"of": "the future"})),
        ] {
            load_with(pointer, value).unwrap_or_else(|e| panic!("{pointer}: {e}"));
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let long = "x".repeat(65);
        for (pointer, value, error) in [
            ("/root/path", json!(""), "root.path is missing"),
            ("/process/args", json!([]), "process.args is missing"),
            ("/process/args", Value::Null, "process.args is missing"),
            (
                "/process/cwd",
                json!("tmp"),
                "process.cwd: \"tmp\" isn't absolute",
            ),
            ("/process/cwd", json!(""), "process.cwd is missing"),
            (
                "/process/env",
                json!(["X"]),
                "process.env[0]: \"X\" isn't NAME=VALUE",
            ),
            (
                "/process/rlimits",
                json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
                "process.rlimits[1]: there are two of RLIMIT_CPU",
            ),
            (
                "/process/rlimits",
                json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
                "process.rlimits[0]: the soft limit 2 of RLIMIT_CPU is over the hard limit 1",
            ),
            (
                "/process/capabilities/permitted",
                json!([]),
                "process.capabilities.effective: CAP_KILL isn't in the permitted set",
            ),
            (
                "/process",
                json!({"user": {}, "cwd": "/", "args": ["x"], "terminal": true,
                       "consoleSize": {"height": 1, "width": 65536}}),
                "process.consoleSize.width: 65536 is over 65535",
            ),
            (
                "/process/commandLine",
                json!("x"),
                "process.commandLine: it is for containers of another operating system",
            ),
            (
                "/process/user/username",
                json!("x"),
                "process.user.username: it is for containers of another operating system",
            ),
            (
                "/windows",
                json!({"layerFolders": ["x"]}),
                "windows: it is for containers of another operating system",
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_FIFO"}),
                "process.scheduler.priority: 0 isn't between 1 and 99",
            ),
            (
                "/process/execCPUAffinity",
                json!({"initial": "3-1"}),
                "process.execCPUAffinity.initial: \"3-1\" isn't a list of CPUs, like 0-2,4",
            ),
            (
                "/linux/memoryPolicy",
                json!({"mode": "MPOL_BIND"}),
                "linux.memoryPolicy.nodes: MPOL_BIND needs some",
            ),
            (
                "/hooks",
                json!({"poststop": [{"path": "x"}]}),
                "hooks.poststop[0].path: \"x\" isn't absolute",
            ),
            (
                "/process/oomScoreAdj",
                json!(1001),
                "process.oomScoreAdj: 1001 isn't between -1000 and 1000",
            ),
            (
                "/process/ioPriority",
                json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
                "process.ioPriority.priority: 9 isn't between 0 and 7",
            ),
            (
                "/linux/personality",
                json!({"domain": "LINUX32", "flags": ["x"]}),
                "linux.personality.flags: the runtime spec has no flag that could be set",
            ),
            (
                "/linux/timeOffsets",
                json!({"boottime": {"secs": 1}}),
                "linux.timeOffsets.boottime: it needs a new time namespace, which the container lacks",
            ),
            (
                "/process/user/umask",
                json!(512),
                "process.user.umask: 0o1000 is over 0o777",
            ),
            (
                "/process/user/uid",
                json!(4294967295u32),
                "process.user.uid: 4294967295 isn't an id",
            ),
            (
                "/mounts/1/options",
                json!(["idmap"]),
                "mounts[1].options: mount option \"idmap\" is for bind mounts only",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]),
                "linux.namespaces[2]: there are two pid namespaces",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "uts"}]),
                "mounts: it needs a new mount namespace, which the container lacks",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "user"}]),
                "linux.uidMappings is missing",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
                "mounts: it needs a new mount namespace, which the container lacks",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "network", "path": "x"}]),
                "linux.namespaces[1].path: \"x\" isn't absolute",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}]),
                "hostname: it needs a uts namespace, which the container lacks",
            ),
            (
                "/hostname",
                json!(long),
                "hostname: 65 bytes are over the kernel's limit of 64",
            ),
            (
                "/linux/sysctl",
                json!({"kernel.pid_max": "1"}),
                "linux.sysctl.kernel.pid_max: it isn't a parameter of a namespace, but of the whole kernel",
            ),
            (
                "/linux/rootfsPropagation",
                json!("sideways"),
                "linux.rootfsPropagation: \"sideways\" isn't private, slave, shared or unbindable",
            ),
            (
                "/linux/maskedPaths",
                json!(["/proc/kcore", "proc"]),
                "linux.maskedPaths[1]: \"proc\" isn't absolute",
            ),
            (
                "/linux/readonlyPaths",
                json!(["/proc/.."]),
                "linux.readonlyPaths[0]: \"/proc/..\" is the root",
            ),
        ] {
            assert_eq!(load_with(pointer, value).unwrap_err(), error);
        }
    }

    #[test]
    fn resources_are_checked_too() {
        let resources = json!({"memory": {"limit": -2}});
        let error = load_with("/linux/resources", resources).unwrap_err();
        assert!(error.starts_with("linux.resources.memory.limit"), "{error}");
        let error = load_with("/linux/cgroupsPath", json!("/a/../../b")).unwrap_err();
        assert!(error.starts_with("linux.cgroupsPath"), "{error}");
    }

    #[test]
    fn time_offsets_are_of_two_clocks() {
        let mut config = sample();
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "time"}));
        for (offsets, words) in [
            (
                json!({"boottime": {"secs": -1, "nanosecs": 999999999}, "monotonic": {}}),
                None,
            ),
            (json!({"realtime": {"secs": 1}}), Some("isn't a clock")),
            (
                json!({"monotonic": {"nanosecs": 1000000000}}),
                Some("over a second"),
            ),
        ] {
            config["linux"]["timeOffsets"] = offsets;
            let result = load(config.to_string().as_bytes()).map_err(|e| e.to_string());
            match words {
                None => drop(result.unwrap()),
                Some(words) => assert!(result.unwrap_err().contains(words)),
            }
        }
    }

    #[test]
    fn a_sysctl_needs_the_namespace_that_it_is_of() {
        let mut config = sample();
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let load = |config: &Value| load(config.to_string().as_bytes());
        load(&config).unwrap();
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|n| n["type"] != "network");
        let error = load(&config).unwrap_err().to_string();
        assert!(error.contains("it needs a net namespace"), "{error}");
    }
}
