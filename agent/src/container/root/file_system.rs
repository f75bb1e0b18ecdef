//! Makes new file systems, and changes the parameters of existing ones
//! ([kernel document](https://docs.kernel.org/filesystems/mount_api.html)).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, XattrFlags, mkdirat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
};

use crate::container::error::{MountProblem, Step};
use crate::container::kernel::mount_calls::{
    Extent, MountAttributes, attach, clone_tree, mount_setattr, tmpfs,
};

/// The longest value that fsconfig(2) takes, in bytes.
const MAX_VALUE: usize = 255;

/// The longest parameters, all together, that mount(2) takes, in bytes: a page with a NUL.
const MAX_WORDS: usize = 4095;

/// A parameter of a file system: a key, and a value where there is one.
type Parameter = (String, Option<String>);

/// A file system that is to be made.
pub(super) struct NewFileSystem<'a> {
    /// The name of its type.
    pub(super) name: &'a str,
    /// May be empty.
    pub(super) source: &'a Path,
    pub(super) parameters: &'a [Parameter],
}

impl NewFileSystem<'_> {
    /// Makes it, with attributes (`MOUNT_ATTR_*`), not attached yet. `target` is where it will be.
    pub(super) fn make(&self, target: &OwnedFd, attributes: u64) -> Result<OwnedFd, MountProblem> {
        let values = self
            .parameters
            .iter()
            .filter_map(|(_, value)| value.as_ref());
        if values.map(String::len).any(|length| length > MAX_VALUE) {
            return self.make_by_mount(target, attributes);
        }
        let context = fsopen(self.name, FsOpenFlags::FSOPEN_CLOEXEC);
        let context = match context {
            Err(rustix::io::Errno::NODEV) => {
                return Err(MountProblem::FileSystem {
                    kind: self.name.to_owned(),
                    reason: "the kernel has no such file system".to_owned(),
                });
            }
            other => other.step(|| format!("open a {} file system", self.name))?,
        };
        self.make_from(&context, attributes)
    }

    /// As [`NewFileSystem::make`], from an opened file system.
    pub(super) fn make_from(
        &self,
        context: &OwnedFd,
        attributes: u64,
    ) -> Result<OwnedFd, MountProblem> {
        let refused = |e| refusal(self.name, context, e);
        if !self.source.as_os_str().is_empty() {
            fsconfig_set_string(context, "source", self.source).map_err(refused)?;
        }
        set_parameters(context, self.parameters).map_err(refused)?;
        fsconfig_create(context).map_err(refused)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(refused)
    }

    /// As [`NewFileSystem::make`], by mount(2), which takes longer values: an overlay has its layers
    /// in one. It attaches what it makes at once. So that nobody sees the mount before it has its
    /// attributes, that is in a tmpfs of its own, which is on the target meanwhile.
    fn make_by_mount(&self, target: &OwnedFd, attributes: u64) -> Result<OwnedFd, MountProblem> {
        let (flags, words) = self.words();
        if words.len() > MAX_WORDS {
            return Err(MountProblem::FileSystem {
                kind: self.name.to_owned(),
                reason: format!("its options are over {MAX_WORDS} bytes"),
            });
        }
        let step = || "prepare a place for it";
        let stage = tmpfs(MountAttrFlags::MOUNT_ATTR_NOEXEC).step(step)?;
        mkdirat(&stage, "mount", Mode::RWXU).step(step)?;
        attach(&stage, target).step(step)?;
        let path = format!("/proc/self/fd/{}", stage.as_raw_fd());
        let made = self.mount_at(&format!("{path}/mount"), flags, &words);
        let unmounted = umount2(path.as_str(), MntFlags::MNT_DETACH);
        let made = made?;
        unmounted.step(|| "leave the place that was prepared for it")?;
        let attributes = MountAttributes {
            set: attributes,
            ..Default::default()
        };
        mount_setattr(&made, attributes, Extent::Mount).step(|| "set its options")?;
        Ok(made)
    }

    /// Makes it at a directory, and returns a copy of the mount that isn't attached.
    fn mount_at(
        &self,
        directory: &str,
        flags: MsFlags,
        words: &str,
    ) -> Result<OwnedFd, MountProblem> {
        let source = Some(self.source).filter(|source| !source.as_os_str().is_empty());
        mount(source, directory, Some(self.name), flags, Some(words)).map_err(|error| {
            MountProblem::FileSystem {
                kind: self.name.to_owned(),
                reason: io::Error::from(error).to_string(),
            }
        })?;
        let tree = clone_tree(Path::new(directory), Extent::Mount);
        Ok(tree.step(|| "open the mount that was made")?)
    }

    /// Returns the parameters as mount(2) takes them: those that every file system has are flags.
    fn words(&self) -> (MsFlags, String) {
        let mut flags = MsFlags::empty();
        let mut words = Vec::new();
        for (key, value) in self.parameters {
            match (key.as_str(), value) {
                ("sync", None) => flags |= MsFlags::MS_SYNCHRONOUS,
                ("dirsync", None) => flags |= MsFlags::MS_DIRSYNC,
                ("mand", None) => flags |= MsFlags::MS_MANDLOCK,
                ("lazytime", None) => flags |= MsFlags::MS_LAZYTIME,
                ("nolazytime", None) => flags &= !MsFlags::MS_LAZYTIME,
                ("iversion", None) => flags |= MsFlags::MS_I_VERSION,
                (key, None) => words.push(key.to_owned()),
                (key, Some(value)) => words.push(format!("{key}={value}")),
            }
        }
        (flags, words.join(","))
    }
}

/// Changes parameters of the file system that is mounted at `target`.
pub(super) fn reconfigure(target: &OwnedFd, parameters: &[Parameter]) -> Result<(), MountProblem> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(target, "", flags).step(|| "open its file system")?;
    let refused = |e| refusal("remount", &context, e);
    set_parameters(&context, parameters).map_err(refused)?;
    fsconfig_reconfigure(&context).map_err(refused)
}

fn set_parameters(context: &OwnedFd, parameters: &[Parameter]) -> rustix::io::Result<()> {
    for (key, value) in parameters {
        match value {
            Some(value) => fsconfig_set_string(context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context, key.as_str())?,
        }
    }
    Ok(())
}

fn refusal(name: &str, context: &OwnedFd, error: rustix::io::Errno) -> MountProblem {
    MountProblem::FileSystem {
        kind: name.to_owned(),
        reason: kernel_log(context).unwrap_or_else(|| io::Error::from(error).to_string()),
    }
}

/// Returns what the kernel says about its refusal on a file system context.
fn kernel_log(context: &OwnedFd) -> Option<String> {
    let mut line = [0; 1024];
    let length = nix::unistd::read(context, &mut line).ok()?;
    let line = String::from_utf8_lossy(line.get(..length)?);
    // A letter for the severity comes first.
    Some(line.get(2..)?.trim_end().to_owned())
}

/// Whether the running kernel supports the labels of `linux.mountLabel`.
pub(crate) fn has_labels() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Labels the root of a mount.
pub(super) fn label_root(mount: &OwnedFd, label: &str) -> rustix::io::Result<()> {
    // A descriptor opened with `O_PATH` takes no attributes itself.
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), flags)
}
