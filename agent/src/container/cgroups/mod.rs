//! Control groups, version 2, through the files of a cgroup2 file system
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v2.html)).
//!
//! The OCI runtime spec describes limits in terms of cgroup v1. Each controller's module
//! turns its part of `linux.resources` into [`Setting`]s, file by file, as runc does on v2;
//! that is a pure function, so whatever can't be honoured is found before anything is
//! created. [`Cgroup`] then makes the directory and writes them.

mod bpf;
mod cpu;
mod cpuset;
mod devices;
mod hugetlb;
mod io;
mod memory;
mod path;
mod pids;
mod unified;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub use path::relative_path;

/// How long [`Cgroup::remove`] waits for killed processes to be gone. A process that is
/// killed leaves its cgroup when it exits, which takes as long as its last system call.
const REMOVAL_BOUND: Duration = Duration::from_secs(10);

/// How deep below a container's cgroup the workload may have nested its own for them to be
/// removed. The kernel's path limit allows some 2000.
const MAX_DEPTH: usize = 256;

/// Why a cgroup could not be made as asked, or not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Something that cgroup v2 has no equal for.
    #[error("linux.resources.{field} can't be honoured: {reason}")]
    Unsupported {
        /// The field, below `linux.resources`.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// A value that makes no sense.
    #[error("linux.resources.{field}: {value} is not {expected}")]
    Invalid {
        /// The field, below `linux.resources`.
        field: String,
        /// What was given.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// A `linux.cgroupsPath` that names no cgroup.
    #[error("linux.cgroupsPath {path:?}: {reason}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no cgroup2 file system where one is usually mounted.
    #[error("no cgroup2 file system is mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")]
    NotMounted,
    /// The kernel, or the parent cgroup, lacks a controller that a limit needs.
    #[error("linux.resources.{field} needs the cgroup controller {controller}, which {} lacks", parent.display())]
    NoController {
        /// The field, below `linux.resources`.
        field: String,
        /// The controller.
        controller: String,
        /// The cgroup that doesn't have it to give.
        parent: PathBuf,
    },
    /// The kernel has the controller, but not the file that a limit is written to.
    #[error("linux.resources.{field} needs {file}, which this kernel lacks")]
    NoFile {
        /// The field, below `linux.resources`.
        field: String,
        /// The file's name.
        file: String,
    },
    /// CPUs or memory nodes that exist nowhere, or not for this cgroup.
    #[error("linux.resources.{field}: of {requested}, only {available:?} is available")]
    Unavailable {
        /// The field, below `linux.resources`.
        field: String,
        /// What was asked for.
        requested: String,
        /// What there is of it.
        available: String,
    },
    /// The kernel refused a limit.
    #[error("linux.resources.{field}: can't write {value:?} to {file}")]
    Write {
        /// The field, below `linux.resources`.
        field: String,
        /// The file's name.
        file: String,
        /// What was written.
        value: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The device rules' program was refused.
    #[error("linux.resources.devices: can't {action}")]
    Devices {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A cgroup directory could not be made, read or removed.
    #[error("can't {action} {}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// The directory or a file in it.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A cgroup of that path has processes or children already.
    #[error("the cgroup {} is in use already", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// Its processes outlived being killed.
    #[error("the cgroup {} still has processes {} s after they were killed", path.display(), REMOVAL_BOUND.as_secs())]
    Busy {
        /// Its directory.
        path: PathBuf,
    },
}

impl CgroupError {
    fn unsupported(field: impl Into<String>, reason: &'static str) -> Self {
        CgroupError::Unsupported {
            field: field.into(),
            reason,
        }
    }

    fn invalid(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        expected: &'static str,
    ) -> Self {
        CgroupError::Invalid {
            field: field.into(),
            value: value.to_string(),
            expected,
        }
    }

    fn directory(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| CgroupError::Directory {
            action,
            path,
            source,
        }
    }
}

/// A limit as the kernel takes it: what to write to which file of the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// The field of `linux.resources` that asks for it, to name in errors.
    field: String,
    file: String,
    value: String,
    if_missing: IfMissing,
}

/// What a kernel without a [`Setting`]'s file means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum IfMissing {
    /// The limit can't be enforced.
    Refuse,
    /// The limit holds anyhow.
    Skip,
    /// The limit holds anyhow if the kernel was built without swap.
    SkipWithoutSwap,
    /// Another file does the same.
    Instead { file: &'static str, value: String },
}

impl Setting {
    fn new(field: &str, file: impl Into<String>, value: impl ToString) -> Self {
        Setting {
            field: field.to_owned(),
            file: file.into(),
            value: value.to_string(),
            if_missing: IfMissing::Refuse,
        }
    }

    fn if_missing(self, if_missing: IfMissing) -> Self {
        Setting { if_missing, ..self }
    }

    /// The controller that the file belongs to; `None` for the files of every cgroup.
    fn controller(&self) -> Option<&str> {
        match self.file.split('.').next() {
            Some("cgroup") | None => None,
            other => other,
        }
    }
}

/// Every limit of `resources`, in the order to write them. `unified` comes last: it has the
/// last word.
fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        settings.extend(memory::settings(memory)?);
    }
    if let Some(cpu) = resources.cpu() {
        settings.extend(cpu::settings(cpu)?);
        settings.extend(cpuset::settings(cpu)?);
    }
    if let Some(pids) = resources.pids() {
        settings.push(pids::setting(pids));
    }
    if let Some(block_io) = resources.block_io() {
        settings.extend(io::settings(block_io)?);
    }
    if let Some(limits) = resources.hugepage_limits() {
        settings.extend(hugetlb::settings(limits)?);
    }
    if let Some(network) = resources.network() {
        if network.class_id().is_some_and(|id| id != 0) {
            return Err(CgroupError::unsupported(
                "network.classID",
                "cgroup v2 has no net_cls controller",
            ));
        }
        if network.priorities().as_ref().is_some_and(|p| !p.is_empty()) {
            return Err(CgroupError::unsupported(
                "network.priorities",
                "cgroup v2 has no net_prio controller",
            ));
        }
    }
    if resources.rdma().as_ref().is_some_and(|r| !r.is_empty()) {
        return Err(CgroupError::unsupported("rdma", "it isn't supported yet"));
    }
    if let Some(unified) = resources.unified() {
        settings.extend(unified::settings(unified)?);
    }
    Ok(settings)
}

/// A container's cgroup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cgroup {
    directory: PathBuf,
    /// The directories above it that had to be made for it, innermost first.
    parents: Vec<PathBuf>,
}

impl Cgroup {
    /// Checks everything about `resources` that can be checked without touching the system.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Unsupported`] or [`CgroupError::Invalid`], naming the field.
    pub fn validate(resources: &LinuxResources) -> Result<(), CgroupError> {
        settings(resources)?;
        devices::program(resources.devices().as_deref().unwrap_or_default())?;
        Ok(())
    }

    /// Makes the cgroup `path`, relative to the cgroup2 mount (see [`relative_path`]), with
    /// the limits of `resources`. Every controller there is gets enabled on the way down.
    /// Access to devices is what `linux.resources.devices` and the default devices allow; the
    /// last rule for a device has the say.
    ///
    /// Nothing is left behind on failure.
    ///
    /// # Errors
    ///
    /// As [`CgroupError`] tells; [`CgroupError::InUse`] if there is such a cgroup already and
    /// it isn't empty.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Self, CgroupError> {
        Self::create_below(mount_point()?, path, resources)
    }

    fn create_below(
        mount: &Path,
        path: &Path,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, CgroupError> {
        let path = path::checked(path, path)?;
        let default = LinuxResources::default();
        let resources = resources.unwrap_or(&default);
        let settings = settings(resources)?;
        let program = devices::program(resources.devices().as_deref().unwrap_or_default())?;

        let mut cgroup = Cgroup {
            directory: mount.join(&path),
            parents: Vec::new(),
        };
        let made = cgroup
            .make_steadily(mount, &path)
            .and_then(|()| cgroup.limit(&settings))
            .and_then(|()| bpf::attach(&program, &cgroup.open()?));
        if let Err(error) = made {
            // What `make` found in use isn't ours to remove.
            if !matches!(error, CgroupError::InUse { .. }) {
                let _ = fs::remove_dir(&cgroup.directory);
            }
            cgroup.remove_parents();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Makes the directories down to this one, each with the controllers of the one above.
    fn make(&mut self, mount: &Path, path: &Path) -> Result<(), CgroupError> {
        let mut current = mount.to_owned();
        for component in path {
            delegate_controllers(&current)?;
            current.push(component);
            let leaf = current == self.directory;
            let mut made = fs::create_dir(&current);
            if leaf && matches!(&made, Err(e) if e.kind() == ErrorKind::AlreadyExists) {
                // An empty one is replaced, so that no limit of its former use survives.
                fs::remove_dir(&current).map_err(|source| match source.kind() {
                    ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty => CgroupError::InUse {
                        path: current.clone(),
                    },
                    _ => CgroupError::directory("replace the cgroup", &current)(source),
                })?;
                made = fs::create_dir(&current);
            }
            match made {
                Ok(()) if !leaf => self.parents.insert(0, current.clone()),
                Err(e) if leaf || e.kind() != ErrorKind::AlreadyExists => {
                    return Err(CgroupError::directory("make the cgroup", &current)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A parent that was there may go just then, with another container that it was made for.
    fn make_steadily(&mut self, mount: &Path, path: &Path) -> Result<(), CgroupError> {
        for _ in 0..8 {
            match self.make(mount, path) {
                Err(CgroupError::Directory { source, .. })
                    if source.kind() == ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.make(mount, path)
    }

    fn limit(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        if settings.is_empty() {
            return Ok(());
        }
        let file = self.directory.join("cgroup.controllers");
        let controllers =
            fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
        for setting in settings {
            if let Some(controller) = setting.controller()
                && !controllers.split_whitespace().any(|c| c == controller)
            {
                return Err(CgroupError::NoController {
                    field: setting.field.clone(),
                    controller: controller.to_owned(),
                    parent: self.directory.parent().unwrap_or(Path::new("/")).to_owned(),
                });
            }
            self.apply(setting)?;
        }
        cpuset::check_effective(&self.directory, settings)
    }

    fn apply(&self, setting: &Setting) -> Result<(), CgroupError> {
        let no_file = || CgroupError::NoFile {
            field: setting.field.clone(),
            file: setting.file.clone(),
        };
        let (mut file, mut value) = (setting.file.as_str(), setting.value.as_str());
        let mut written = write(&self.directory.join(file), value);
        if matches!(&written, Err(e) if e.kind() == ErrorKind::NotFound) {
            match &setting.if_missing {
                IfMissing::Skip => return Ok(()),
                // The kernel has this file exactly when it was built with swap.
                IfMissing::SkipWithoutSwap if !Path::new("/proc/swaps").exists() => return Ok(()),
                IfMissing::Refuse | IfMissing::SkipWithoutSwap => return Err(no_file()),
                IfMissing::Instead {
                    file: other,
                    value: converted,
                } => {
                    (file, value) = (other, converted);
                    written = write(&self.directory.join(file), value);
                }
            }
        }
        written.map_err(|source| match source.kind() {
            ErrorKind::NotFound => no_file(),
            _ => CgroupError::Write {
                field: setting.field.clone(),
                file: file.to_owned(),
                value: value.to_owned(),
                source,
            },
        })
    }

    fn open(&self) -> Result<OwnedFd, CgroupError> {
        self.directory()
            .map_err(CgroupError::directory("open", &self.directory))
    }

    /// The cgroup's directory, for `clone3` with `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    ///
    /// What opening it gives.
    pub fn directory(&self) -> std::io::Result<OwnedFd> {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&self.directory)?;
        Ok(directory.into())
    }

    /// Where the cgroup is in the file system.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// How many of its processes, and of the cgroups below, were killed for want of memory.
    /// 0 where there is no memory controller.
    ///
    /// # Errors
    ///
    /// What reading `memory.events` gives.
    pub fn oom_kills(&self) -> std::io::Result<u64> {
        let events = match fs::read_to_string(self.directory.join("memory.events")) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        Ok(keyed(&events, "oom_kill").unwrap_or(0))
    }

    /// Kills every process in it and below, including those that are just being forked. They
    /// may take a moment to be gone.
    ///
    /// # Errors
    ///
    /// What writing `cgroup.kill` gives, or on kernels before 5.14, which lack it, freezing
    /// and killing one by one.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let file = self.directory.join("cgroup.kill");
        match write(&file, "1") {
            Err(e) if e.kind() == ErrorKind::NotFound => self.kill_one_by_one(),
            other => other.map_err(CgroupError::directory("write", &file)),
        }
    }

    /// Frozen processes can't fork, so killing what is listed kills all. SIGKILL reaches
    /// frozen processes too.
    fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        let freeze = self.directory.join("cgroup.freeze");
        write(&freeze, "1").map_err(CgroupError::directory("write", &freeze))?;
        let until = Instant::now() + REMOVAL_BOUND;
        while self.event("frozen") == Some(0) && Instant::now() < until {
            sleep(Duration::from_millis(1));
        }
        each_below(&self.directory, 0, &mut |directory| {
            let file = directory.join("cgroup.procs");
            let pids = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
            for pid in pids.lines().filter_map(|line| line.parse().ok()) {
                // 0 stands for a process that this pid namespace can't see. Gone is fine.
                if pid > 0 {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            Ok(())
        })
        .and(write(&freeze, "0").map_err(CgroupError::directory("write", &freeze)))
    }

    /// Kills what is left in it and removes it, the cgroups that the workload made below it,
    /// and those above that had to be made for it, if nothing else is in them.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] if processes are still there after 10 s; otherwise what the
    /// kernel says.
    pub fn remove(self) -> Result<(), CgroupError> {
        let until = Instant::now() + REMOVAL_BOUND;
        if !self.directory.exists() {
            self.remove_parents();
            return Ok(());
        }
        let mut pause = Duration::from_micros(100);
        while self.event("populated") == Some(1) {
            // Again each time: a process may have been moved in since.
            self.kill()?;
            if self.event("populated") != Some(1) {
                break;
            }
            if Instant::now() >= until {
                return Err(CgroupError::Busy {
                    path: self.directory,
                });
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        // A zombie no longer populates its cgroup, but holds it until it is done exiting.
        loop {
            match each_below(&self.directory, 0, &mut |directory| {
                fs::remove_dir(directory).map_err(CgroupError::directory("remove", directory))
            }) {
                Err(CgroupError::Directory { source, .. })
                    if source.kind() == ErrorKind::ResourceBusy && Instant::now() < until =>
                {
                    sleep(pause);
                }
                other => break other,
            }
        }?;
        self.remove_parents();
        Ok(())
    }

    fn remove_parents(&self) {
        for parent in &self.parents {
            // Another container may live below it by now.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }

    /// A value of `cgroup.events`.
    fn event(&self, key: &str) -> Option<u64> {
        let events = fs::read_to_string(self.directory.join("cgroup.events")).ok()?;
        keyed(&events, key)
    }
}

/// Calls `f` for each cgroup below `directory`, and then for itself.
fn each_below(
    directory: &Path,
    depth: usize,
    f: &mut impl FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    if depth < MAX_DEPTH {
        let entries = fs::read_dir(directory).map_err(CgroupError::directory("list", directory))?;
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                each_below(&entry.path(), depth + 1, f)?;
            }
        }
    }
    f(directory)
}

/// Where cgroup2 is mounted: alone, or beside cgroup v1 in systemd's hybrid layout.
fn mount_point() -> Result<&'static Path, CgroupError> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|path| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC))
        .ok_or(CgroupError::NotMounted)
}

/// Lets children of a cgroup have every controller that it has.
fn delegate_controllers(directory: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| {
        let file = directory.join(name);
        fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))
    };
    let enabled = read("cgroup.subtree_control")?;
    let missing: Vec<String> = read("cgroup.controllers")?
        .split_whitespace()
        .filter(|controller| !enabled.split_whitespace().any(|e| e == *controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let file = directory.join("cgroup.subtree_control");
    if write(&file, &missing.join(" ")).is_err() {
        // One that can't be had (cpu with realtime processes about, say) must not cost the
        // others. A limit that needs it is refused later, by name.
        for controller in missing {
            let _ = write(&file, &controller);
        }
    }
    Ok(())
}

/// The number after `key` in a file of `key value` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|value| value.parse().ok())
}

/// Writes to a file that exists, in one call: the kernel takes each write for a whole value.
fn write(file: &Path, value: &str) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(file)?;
    file.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests;
