//! `mounts`: each is made detached, given its attributes, and only then attached to a target
//! that was resolved inside the container's root. So there is no moment at which a read-only
//! mount can be written, and no path that can be exchanged between a check and its use.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use libc::{MOUNT_ATTR__ATIME, MOUNT_ATTR_RDONLY};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};
use oci_spec::runtime::Linux;
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, XattrFlags, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
    move_mount,
};

use super::cgroup_mount::View;
use super::config::ConfigError;
use super::copy_up::copy_up;
use super::error::{InitError, Step};
use super::mount_ids::{Mapper, MountIds};
use super::mount_options::MountOptions;
use super::rootfs::{clone_tree, clone_tree_for_another};
use super::safe_path::{self, Kind};
use super::sys::{MountAttributes, mount_setattr};

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("mounts[{index}] at {}: {problem}", destination.display())]
pub(super) struct MountError {
    index: usize,
    destination: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("can't {step}: {source}")]
    Step {
        step: Cow<'static, str>,
        source: io::Error,
    },
    #[error("{kind}: {reason}")]
    FileSystem { kind: String, reason: String },
    #[error("the destination of a {} mount must be a directory, and no symbolic link",
        if kind.is_empty() { "bind" } else { kind })]
    NotPlain { kind: String },
    #[error("nothing may be mounted there: it is inside of /proc")]
    InsideProc,
    #[error("only a proc file system may be mounted there")]
    NotProc,
    #[error("nothing is mounted there that could be remounted")]
    NotMounted,
}

fn step<E: Into<io::Error>>(step: impl Into<Cow<'static, str>>) -> impl FnOnce(E) -> Problem {
    let step = step.into();
    move |source| Problem::Step {
        step,
        source: source.into(),
    }
}

/// The only files of a proc file system that may be replaced (by FUSE file systems that show
/// the container's limits in them, mostly). Anything else could deceive programs, ours too,
/// that rely on `/proc` to say what it says.
const REPLACEABLE: [&str; 13] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/crypto/fips_enabled",
];

/// A mount that was made, if there is more to be done with it.
pub(super) enum Made {
    /// It has to be made read-only at the end, when everything below it is in place.
    Unfinished(OwnedFd),
    /// A file system of the kernel's: parts of it may have to be masked.
    Kernels(OwnedFd),
}

/// An entry of `mounts`, understood.
#[derive(Debug)]
pub(super) struct Mount {
    index: usize,
    /// Absolute, without `.` and `..`.
    destination: PathBuf,
    source: PathBuf,
    /// Empty for a bind mount.
    kind: String,
    options: MountOptions,
    /// How the owners of its files are mapped.
    ids: Option<MountIds>,
    /// The SELinux label of its root, for a file system that isn't labelled as a whole.
    root_label: Option<String>,
    /// The source of a bind mount, if the engine has opened it.
    tree: Option<OwnedFd>,
    /// Its file system, if it has to be opened elsewhere than where it is mounted.
    context: Option<OwnedFd>,
}

impl Mount {
    /// Understands `mounts[index]`.
    pub(super) fn parse(
        index: usize,
        mount: &oci_spec::runtime::Mount,
    ) -> Result<Self, ConfigError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let kind = mount.typ().as_deref().unwrap_or_default();
        // Docker and Podman write either "bind" or "none", with the option.
        let bind_type = kind == "bind";
        let options =
            MountOptions::parse(mount.options().as_deref().unwrap_or_default(), bind_type)
                .map_err(|e| ConfigError::invalid(field("options"), e.to_string()))?;
        let source = mount.source().clone().unwrap_or_default();
        if options.copy_up && kind != "tmpfs" {
            let problem = "mount option \"tmpcopyup\" is for a tmpfs only";
            return Err(ConfigError::invalid(field("options"), problem));
        }
        if options.remount {
            // What is mounted there has both.
        } else if options.bind.is_some() {
            if source.as_os_str().is_empty() {
                return Err(ConfigError::missing(field("source")));
            }
        } else if kind.is_empty() || kind == "none" {
            return Err(ConfigError::missing(field("type")));
        }
        let ids = MountIds::of(index, mount, options.id_mapped)?;
        if ids.is_some() && (options.bind.is_none() || options.remount) {
            let problem = "ids can be mapped on bind mounts only";
            return Err(ConfigError::invalid(field("uidMappings"), problem));
        }
        let destination = mount.destination();
        if destination.as_os_str().is_empty() {
            return Err(ConfigError::missing(field("destination")));
        }
        // The spec wants it absolute; runc takes a relative one as from the root.
        let destination = clean(destination);
        if destination == Path::new("/") {
            let problem = "the root can't be mounted over";
            return Err(ConfigError::invalid(field("destination"), problem));
        }
        Ok(Mount {
            index,
            destination,
            source,
            kind: if options.bind.is_some() {
                String::new()
            } else {
                kind.to_owned()
            },
            options,
            ids,
            root_label: None,
            tree: None,
            context: None,
        })
    }

    /// Whether it shows the processes of the pid namespace that it is mounted from.
    pub(super) fn is_new_proc(&self) -> bool {
        self.kind == "proc" && self.options.bind.is_none() && !self.options.remount
    }

    /// Has it made of a file system that was opened already.
    pub(super) fn set_context(&mut self, context: OwnedFd) {
        self.context = Some(context);
    }

    /// The engine: opens the source of a bind mount, for an init that may have no right to it.
    pub(super) fn open_source(&mut self) -> Result<(), MountError> {
        if let Some(recursive) = self.options.bind
            && !self.options.remount
        {
            self.tree =
                clone_tree_for_another(&self.source, recursive).map_err(|e| MountError {
                    index: self.index,
                    destination: self.destination.clone(),
                    problem: step(format!("bind {}", self.source.display()))(e),
                })?;
        }
        Ok(())
    }

    /// Whether owners are to be mapped on it, for which there must be mappings.
    pub(super) fn validate_ids(&self, linux: &Linux) -> Result<(), ConfigError> {
        let ids = self.ids.as_ref();
        ids.map_or(Ok(()), |ids| ids.validate(self.index, linux))
    }

    /// The engine: maps the owners on those of `mounts` that ask for it, to which the root of a
    /// user namespace has no right.
    pub(super) fn map_ids(mounts: &mut [Mount], linux: &Linux) -> Result<(), InitError> {
        let mut asking = mounts.iter_mut().filter(|m| m.ids.is_some()).peekable();
        if asking.peek().is_none() {
            return Ok(());
        }
        let mut mapper = Mapper::new(linux)?;
        for mount in asking {
            if mount.tree.is_none() {
                mount.open_source()?;
            }
            let (Some(tree), Some(ids)) = (&mount.tree, &mount.ids) else {
                let step = || format!("open {} with the engine's rights", mount.source.display());
                return Err(Errno::EPERM).step(step);
            };
            mapper.map(mount.index, tree, ids)?;
        }
        Ok(())
    }

    /// Gives it `linux.mountLabel`, if it is of a file system that runc labels.
    pub(super) fn label(&mut self, label: &str) {
        if self.options.remount {
            return;
        }
        match self.kind.as_str() {
            // Bind mounts are as their source is, and these are labelled by the kernel.
            "" | "proc" | "sysfs" | "cgroup" | "cgroup2" => {}
            "mqueue" => self.root_label = Some(label.to_owned()),
            _ => {
                let parameter = ("context".to_owned(), Some(label.to_owned()));
                self.options.parameters.push(parameter);
            }
        }
    }

    /// Whether this puts a directory of the caller's in the place of `/dev`.
    pub(super) fn is_bind_of_dev(&self) -> bool {
        self.options.bind.is_some()
            && !self.options.remount
            && self.destination == Path::new("/dev")
    }

    /// Where it is in the container, in words: links are not followed.
    pub(super) fn destination(&self) -> &Path {
        &self.destination
    }

    /// Whether programs rely on it to show what the kernel has to say.
    fn is_kernels(&self) -> bool {
        matches!(self.kind.as_str(), "proc" | "sysfs")
            || self.destination == Path::new("/proc")
            || self.destination == Path::new("/sys")
    }

    /// Makes the mount.
    pub(super) fn make(
        &self,
        root: BorrowedFd<'_>,
        view: View<'_>,
    ) -> Result<Option<Made>, MountError> {
        self.try_make(root, view).map_err(|problem| MountError {
            index: self.index,
            destination: self.destination.clone(),
            problem,
        })
    }

    fn try_make(&self, root: BorrowedFd<'_>, view: View<'_>) -> Result<Option<Made>, Problem> {
        if self.options.remount {
            return self.remount(root).map(|()| None);
        }
        if let Some(recursive) = self.options.bind {
            let tree = match &self.tree {
                Some(tree) => tree.try_clone().map_err(step("duplicate the source"))?,
                None => self.clone_tree(&self.source, recursive)?,
            };
            let target = self.target(root, Some(&tree))?;
            self.set_attributes(&tree, self.options.attributes)?;
            attach(&tree, &target).map_err(step("attach it"))?;
            return Ok(self.is_kernels().then_some(Made::Kernels(tree)));
        }
        match (self.kind.as_str(), view.in_place_of_v2()) {
            ("cgroup", _) if view.has_v1() => {
                let target = self.target(root, None)?;
                let tree = view.mount_v1(&target).map_err(|(what, e)| step(what)(e))?;
                mount_setattr(&tree, self.options.attributes, true)
                    .map_err(step("set its options"))?;
                Ok(None)
            }
            ("cgroup" | "cgroup2", Some(cgroup)) => {
                let target = self.target(root, None)?;
                let tree = self.clone_tree(cgroup, false)?;
                self.set_attributes(&tree, self.options.attributes)?;
                attach(&tree, &target).map_err(step("attach it"))?;
                Ok(None)
            }
            // An ordinary user's, without a cgroup: its root may mount no other view than theirs.
            ("cgroup" | "cgroup2", None) if view.is_the_callers() => {
                let target = self.target(root, None)?;
                let tree = self.clone_tree(Path::new("/sys/fs/cgroup"), true)?;
                set_unlocked(&tree, self.options.attributes, true)
                    .map_err(step("set its options"))?;
                attach(&tree, &target).map_err(step("attach it"))?;
                Ok(None)
            }
            _ => self.make_file_system(root),
        }
    }

    fn clone_tree(&self, source: &Path, recursive: bool) -> Result<OwnedFd, Problem> {
        clone_tree(source, recursive).map_err(step(format!("bind {}", source.display())))
    }

    /// Changes what is mounted at the destination: its options, and the parameters of its file
    /// system if some are given.
    fn remount(&self, root: BorrowedFd<'_>) -> Result<(), Problem> {
        let target = safe_path::open(root, &self.destination);
        let target = target.map_err(step("open the destination"))?;
        if !is_mount_root(&target).map_err(step("look at the destination"))? {
            return Err(Problem::NotMounted);
        }
        self.set_attributes(&target, self.options.attributes)?;
        if self.options.parameters.is_empty() {
            return Ok(());
        }
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&target, "", flags).map_err(step("open its file system"))?;
        let refused = |e| refusal("remount", &context, e);
        self.set_parameters(&context).map_err(refused)?;
        fsconfig_reconfigure(&context).map_err(refused)
    }

    fn set_parameters(&self, context: &OwnedFd) -> rustix::io::Result<()> {
        for (key, value) in &self.options.parameters {
            match value {
                Some(value) => fsconfig_set_string(context, key.as_str(), value.as_str())?,
                None => fsconfig_set_flag(context, key.as_str())?,
            }
        }
        Ok(())
    }

    fn make_file_system(&self, root: BorrowedFd<'_>) -> Result<Option<Made>, Problem> {
        let target = self.target(root, None)?;
        // Where the host has only cgroup2, that is what the container gets.
        let kind = match self.kind.as_str() {
            "cgroup" => "cgroup2",
            other => other,
        };
        let mut attributes = self.options.attributes;
        // Targets of later mounts may have to be made in these.
        let defer = kind == "tmpfs" && attributes.set & MOUNT_ATTR_RDONLY != 0;
        if defer {
            attributes.set &= !MOUNT_ATTR_RDONLY;
        }
        let context = match &self.context {
            Some(opened) => opened.try_clone().map_err(step("duplicate it"))?,
            None => open_file_system(kind)?,
        };
        let refused = |e| refusal(kind, &context, e);
        if !self.source.as_os_str().is_empty() {
            fsconfig_set_string(&context, "source", &self.source).map_err(refused)?;
        }
        let has = |key: &str| self.options.parameters.iter().any(|(k, _)| k == key);
        if kind == "tmpfs" && !has("mode") {
            // What is mounted over a directory is as accessible as the directory was.
            let mode = fstat(&target).map_err(step("look at the target"))?.st_mode & 0o7777;
            fsconfig_set_string(&context, "mode", format!("{mode:o}")).map_err(refused)?;
        }
        self.set_parameters(&context).map_err(refused)?;
        fsconfig_create(&context).map_err(refused)?;
        let mount = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::from_bits_retain(attributes.set as u32),
        )
        .map_err(refused)?;
        // Who opened it may have been made to open something else.
        if self.context.is_some() && !is_proc(&mount).map_err(step("look at it"))? {
            return Err(Problem::NotProc);
        }
        // A new mount has nothing to clear.
        let rest = MountAttributes {
            propagation: attributes.propagation,
            ..Default::default()
        };
        self.set_attributes(&mount, rest)?;
        if self.options.copy_up {
            copy_up(target.as_fd(), mount.as_fd())
                .map_err(step("copy what is in the directory"))?;
        }
        if let Some(label) = &self.root_label {
            label_root(&mount, label).map_err(step("set linux.mountLabel"))?;
        }
        attach(&mount, &target).map_err(step("attach it"))?;
        Ok(match defer {
            true => Some(Made::Unfinished(mount)),
            false => self.is_kernels().then_some(Made::Kernels(mount)),
        })
    }

    fn set_attributes(&self, mount: &OwnedFd, attributes: MountAttributes) -> Result<(), Problem> {
        for (attributes, recursive) in [(self.options.recursive, true), (attributes, false)] {
            if attributes != MountAttributes::default() {
                set_unlocked(mount, attributes, recursive).map_err(step("set its options"))?;
            }
        }
        Ok(())
    }

    /// Opens the destination, and makes it if it isn't there: a file for a bind mount of
    /// something other than a directory.
    fn target(&self, root: BorrowedFd<'_>, bound: Option<&OwnedFd>) -> Result<OwnedFd, Problem> {
        let mut kind = Kind::Directory;
        if let Some(bound) = bound
            && !is_directory(bound).map_err(step("look at the source"))?
        {
            kind = Kind::File;
        }
        let mut target = safe_path::open_or_make(root, &self.destination, kind)
            .map_err(step("make the destination"))?;
        if self.is_kernels() {
            // Nowhere else than where it is looked for, whatever was there a moment ago.
            let plain = safe_path::open_without_links(root, &self.destination);
            let plain = plain.and_then(|plain| Ok((is_directory(&plain)?, plain)));
            target = match plain {
                Ok((true, plain)) => plain,
                Ok((false, _)) | Err(Errno::ELOOP) => {
                    return Err(Problem::NotPlain {
                        kind: self.kind.clone(),
                    });
                }
                Err(error) => return Err(step("look at the destination")(error)),
            };
        }
        if self.destination == Path::new("/proc") {
            let right = match bound {
                Some(bound) => is_proc(bound).map_err(step("look at the source"))?,
                None => self.kind == "proc",
            };
            if !right {
                return Err(Problem::NotProc);
            }
        } else if is_proc(&target).map_err(step("look at the destination"))?
            && !REPLACEABLE
                .iter()
                .any(|path| self.destination == Path::new(path))
        {
            return Err(Problem::InsideProc);
        }
        Ok(target)
    }
}

fn open_file_system(kind: &str) -> Result<OwnedFd, Problem> {
    fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        rustix::io::Errno::NODEV => Problem::FileSystem {
            kind: kind.to_owned(),
            reason: "the kernel has no such file system".to_owned(),
        },
        e => step(format!("open a {kind} file system"))(e),
    })
}

/// Sets attributes of a mount. Those that a user namespace above holds set stay so.
fn set_unlocked(mount: &OwnedFd, attributes: MountAttributes, recursive: bool) -> io::Result<()> {
    let kept = match mount_setattr(mount, attributes, recursive) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && attributes.clear != 0 => {
            MountAttributes {
                // Times are one field, of which a value can't be set without clearing.
                set: attributes.set & !MOUNT_ATTR__ATIME,
                clear: 0,
                ..attributes
            }
        }
        other => return other,
    };
    mount_setattr(mount, kept, recursive)
}

/// A tmpfs of the engine's own, whose root anyone may enter, with these flags; not yet anywhere.
pub(super) fn tmpfs(flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Attaches a detached mount to what `target` has open.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

fn is_directory(fd: &OwnedFd) -> nix::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
    Ok(kind == SFlag::S_IFDIR)
}

/// Whether a mount begins with what `fd` has open.
fn is_mount_root(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let status = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether `fd` is of a proc file system.
pub(super) fn is_proc(fd: impl AsFd) -> nix::Result<bool> {
    Ok(fstatfs(fd)?.filesystem_type() == PROC_SUPER_MAGIC as FsType)
}

/// Whether the running kernel knows the labels of `linux.mountLabel`.
pub(super) fn has_labels() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Labels what a mount begins with.
fn label_root(mount: &OwnedFd, label: &str) -> rustix::io::Result<()> {
    // A descriptor that was opened for its path only takes no attributes itself.
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), flags)
}

fn refusal(kind: &str, context: &OwnedFd, error: rustix::io::Errno) -> Problem {
    Problem::FileSystem {
        kind: kind.to_owned(),
        reason: kernel_log(context).unwrap_or_else(|| io::Error::from(error).to_string()),
    }
}

/// What the kernel has to say about a file system context that it refused something of.
fn kernel_log(context: &OwnedFd) -> Option<String> {
    let mut line = [0; 1024];
    let length = nix::unistd::read(context, &mut line).ok()?;
    let line = String::from_utf8_lossy(line.get(..length)?);
    // A letter for the severity comes first.
    Some(line.get(2..)?.trim_end().to_owned())
}

/// Makes a path absolute and takes `.` and `..` out of it, by its words alone.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Mount, String> {
        let mount: oci_spec::runtime::Mount = serde_json::from_str(json).unwrap();
        Mount::parse(3, &mount).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in [
            ("/a/./b/../c/", "/a/c"),
            ("a", "/a"),
            ("../../x", "/x"),
            ("/", "/"),
            ("//proc//", "/proc"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(cleaned), "{path}");
        }
    }

    #[test]
    fn bind_mounts_are_known_by_type_or_option() {
        for json in [
            r#"{"destination": "/dev", "type": "bind", "source": "/x"}"#,
            r#"{"destination": "/dev", "source": "/x", "options": ["rbind"]}"#,
            r#"{"destination": "dev/.", "type": "none", "source": "/x", "options": ["bind"]}"#,
        ] {
            assert!(parse(json).unwrap().is_bind_of_dev(), "{json}");
        }
        let tmpfs = parse(r#"{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}"#);
        assert!(!tmpfs.unwrap().is_bind_of_dev());
    }

    #[test]
    fn errors_name_the_field() {
        for (json, error) in [
            (
                r#"{"destination": "/a", "type": "bind"}"#,
                "mounts[3].source is missing",
            ),
            (r#"{"destination": "/a"}"#, "mounts[3].type is missing"),
            (
                r#"{"destination": "", "type": "proc"}"#,
                "mounts[3].destination is missing",
            ),
            (
                r#"{"destination": "/a/..", "type": "tmpfs"}"#,
                "mounts[3].destination: the root can't be mounted over",
            ),
            (
                r#"{"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}"#,
                "mounts[3].options: mount option \"tmpcopyup\" is for a tmpfs only",
            ),
            (
                r#"{"destination": "/a", "type": "bind", "source": "/x", "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}"#,
                "mounts[3].gidMappings is missing",
            ),
            (
                r#"{"destination": "/a", "type": "tmpfs", "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}],
                    "gidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}"#,
                "mounts[3].uidMappings: ids can be mapped on bind mounts only",
            ),
        ] {
            assert_eq!(parse(json).unwrap_err(), error);
        }
    }
}
