//! The container's root file system.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use libc::MOUNT_ATTR_RDONLY;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::error::{InitError, Step};
use super::mounts::{attach, clean};
use super::safe_path;
use super::sys::{MountAttributes, mount_setattr};

/// `linux.rootfsPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Propagation {
    Private,
    /// Also when nothing is asked for, so that what the caller's namespace unmounts goes away
    /// in the container too.
    #[default]
    Slave,
    Shared,
    Unbindable,
}

impl Propagation {
    /// Understands the field's value; the recursive forms mean the same.
    pub(super) fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "" => Propagation::default(),
            "private" | "rprivate" => Propagation::Private,
            "slave" | "rslave" => Propagation::Slave,
            "shared" | "rshared" => Propagation::Shared,
            "unbindable" | "runbindable" => Propagation::Unbindable,
            _ => return None,
        })
    }
}

/// A root file system that is being assembled, in the init's own mount namespace.
pub(super) struct Rootfs {
    /// The root of the mount that becomes the container's root.
    mount: OwnedFd,
    propagation: Propagation,
    /// Mounts to make read-only when everything is in place.
    readonly_at_end: Vec<OwnedFd>,
    /// Where file systems of the kernel's are mounted, and what with.
    kernels: Vec<(PathBuf, OwnedFd)>,
}

impl Rootfs {
    /// Cuts this mount namespace off from the one it is a copy of, and puts a mount of its
    /// own where `path` is; or `tree`, if the engine has cloned it, over the old root: `path`
    /// may be out of the reach of a user namespace's root.
    pub(super) fn attach(
        path: &Path,
        propagation: Propagation,
        tree: Option<OwnedFd>,
    ) -> Result<Self, InitError> {
        let all = match propagation {
            // Bind mounts in the container can then be in a peer group with the caller's.
            Propagation::Shared => MsFlags::MS_SHARED,
            Propagation::Slave => MsFlags::MS_SLAVE,
            Propagation::Private | Propagation::Unbindable => MsFlags::MS_PRIVATE,
        };
        change_propagation(Path::new("/"), all | MsFlags::MS_REC)
            .step(|| "set the propagation of mounts")?;
        let at = match tree {
            Some(_) => Path::new("/"),
            None => path,
        };
        if propagation == Propagation::Shared {
            make_mount_above_private(at)?;
        }
        let mount = match tree {
            Some(tree) => {
                let step = || "set the propagation of the root's mounts";
                let set = |propagation, recursive| {
                    let attributes = MountAttributes {
                        propagation,
                        ..Default::default()
                    };
                    mount_setattr(&tree, attributes, recursive)
                };
                set(all.bits(), true).step(step)?;
                if propagation == Propagation::Shared {
                    // pivot_root refuses a shared one. It is made so in the end.
                    set(libc::MS_PRIVATE, false).step(step)?;
                }
                tree
            }
            None => clone_tree(path, true).step(|| format!("bind root.path {}", path.display()))?,
        };
        let target = open(
            at,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .step(|| format!("open {}", at.display()))?;
        attach(&mount, target).step(|| "attach the root mount")?;
        Ok(Rootfs {
            mount,
            propagation,
            readonly_at_end: Vec::new(),
            kernels: Vec::new(),
        })
    }

    /// The root directory.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Remembers a mount to make read-only at the end.
    pub(super) fn make_readonly_at_end(&mut self, mount: OwnedFd) {
        self.readonly_at_end.push(mount);
    }

    /// Remembers a mount of a file system of the kernel's.
    pub(super) fn remember(&mut self, path: &Path, mount: OwnedFd) {
        self.kernels.push((path.to_owned(), mount));
    }

    /// Opens a path in it. What is in a file system of the kernel's is looked for in the mount
    /// that was made: the way there leads through the image, and so perhaps elsewhere by now.
    pub(super) fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = clean(path);
        let mut kernels = self.kernels.iter().rev();
        let below = kernels.find_map(|(at, mount)| Some((mount, path.strip_prefix(at).ok()?)));
        match below {
            Some((mount, rest)) if !rest.as_os_str().is_empty() => {
                safe_path::open(mount.as_fd(), rest)
            }
            _ => safe_path::open(self.fd(), &path),
        }
    }

    /// Makes it the root of this mount namespace, and lets go of all else in there. With
    /// `no_pivot` all else stays, out of reach of whoever can't leave a chroot.
    pub(super) fn enter(self, readonly: bool, no_pivot: bool) -> Result<(), InitError> {
        let propagation = match self.propagation {
            Propagation::Slave => 0,
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        };
        match no_pivot {
            false => self.pivot()?,
            true => self.cover_the_old_root()?,
        }

        let read_only = MountAttributes {
            set: MOUNT_ATTR_RDONLY,
            ..Default::default()
        };
        for mount in &self.readonly_at_end {
            mount_setattr(mount, read_only, false).step(|| "make a tmpfs read-only")?;
        }
        let root = MountAttributes {
            set: if readonly { MOUNT_ATTR_RDONLY } else { 0 },
            propagation,
            ..Default::default()
        };
        if root != MountAttributes::default() {
            mount_setattr(&self.mount, root, false).step(|| "set the root's mount options")?;
        }
        Ok(())
    }
}

impl Rootfs {
    fn pivot(&self) -> Result<(), InitError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let old_root = open("/", flags, Mode::empty()).step(|| "open the old root")?;
        fchdir(&self.mount).step(|| "change to the container's root")?;
        // With the same directory twice, the old root ends up on top of the new one, and no
        // directory is needed to hold it
        // (https://man7.org/linux/man-pages/man2/pivot_root.2.html).
        pivot_root(".", ".").step(|| "pivot to the container's root")?;
        // So that unmounting the old root reaches nobody else's.
        let slave = MountAttributes {
            propagation: libc::MS_SLAVE,
            ..Default::default()
        };
        mount_setattr(old_root, slave, true).step(|| "detach the old root")?;
        umount2(".", MntFlags::MNT_DETACH).step(|| "unmount the old root")?;
        chdir("/").step(|| "change to the new root")?;
        Ok(())
    }

    fn cover_the_old_root(&self) -> Result<(), InitError> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
            .step(|| "read the path of the container's root")?;
        let mounts = std::fs::read("/proc/self/mountinfo").step(|| "list the mounts")?;
        for at in revealing_mounts(&mounts) {
            if !at.starts_with(&path) {
                hide(&at).step(|| format!("unmount {}", at.display()))?;
            }
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let old_root = open("/", flags, Mode::empty()).step(|| "open the old root")?;
        fchdir(&self.mount).step(|| "change to the container's root")?;
        attach(&self.mount, old_root).step(|| "move the container's root over the old one")?;
        change_root(&self.mount)
    }
}

/// Makes a directory the root of this process, and its working directory.
pub(super) fn change_root(directory: &OwnedFd) -> Result<(), InitError> {
    fchdir(directory).step(|| "change to the container's root")?;
    chroot(".").step(|| "make the container's root this process's")?;
    chdir("/").step(|| "change to the new root")
}

/// A copy of the mount at `path`, with those below it if `recursive`, attached nowhere.
pub(super) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

/// The engine: as [`clone_tree`], with its own rights, for an init that loses them in a user
/// namespace. `None` for an ordinary user, who can't do that: but their containers' root is
/// themselves.
pub(super) fn clone_tree_for_another(path: &Path, recursive: bool) -> io::Result<Option<OwnedFd>> {
    let tree = match clone_tree(path, recursive) {
        Err(rustix::io::Errno::PERM) => return Ok(None),
        other => other?,
    };
    // Nothing that is mounted in the container may appear in the caller's namespace.
    let slave = MountAttributes {
        propagation: libc::MS_SLAVE,
        ..Default::default()
    };
    mount_setattr(&tree, slave, true)?;
    Ok(Some(tree))
}

/// Where whole proc and sys file systems are mounted. As long as one is in a mount namespace,
/// with all that it shows, its members may mount another like it in a user namespace of their
/// own, whatever is masked in the container's
/// ([proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).
fn revealing_mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let whole = fields.nth(3)? == b"/";
            let at = fields.next()?;
            // A variable number of fields ends with a dash.
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let reveals = whole && matches!(kind, b"proc" | b"sysfs");
            reveals.then(|| PathBuf::from(OsString::from_vec(unescape(at))))
        })
        .collect()
}

/// Blanks, tabs, newlines and backslashes are written in octal there.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|d| str::from_utf8(d).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                path.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    path
}

/// Unmounts what is mounted at `path`, in this namespace only, or covers it.
fn hide(path: &Path) -> nix::Result<()> {
    change_propagation(path, MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    match umount2(path, MntFlags::MNT_DETACH) {
        // It belongs to a user namespace above, and can't be taken away.
        Err(Errno::EINVAL | Errno::EPERM) => {
            let none = None::<&str>;
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), none)
        }
        other => other,
    }
}

fn change_propagation(path: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

/// Makes the mount that `path` lies in private: what is mounted on a shared one appears in the
/// caller's namespace too, and pivot_root refuses it.
fn make_mount_above_private(path: &Path) -> Result<(), InitError> {
    for ancestor in path.ancestors() {
        match change_propagation(ancestor, MsFlags::MS_PRIVATE) {
            // Not where a mount begins.
            Err(Errno::EINVAL) => {}
            other => {
                return other.step(|| format!("make the mount at {} private", ancestor.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_proc_and_sys_file_systems_are_found() {
        let mountinfo = b"21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            22 21 0:5 / /proc rw shared:12 master:3 - proc proc rw\n\
            23 22 0:5 /sys /proc/sys ro - proc proc rw\n\
            24 21 0:6 / /a\\040b\\134 rw - sysfs sysfs rw\n\
            25 21 0:7 / /proc/fs/proc rw - tmpfs proc rw\n\
            broken\n";
        let expected = ["/proc", "/a b\\"].map(PathBuf::from);
        assert_eq!(revealing_mounts(mountinfo), expected);
        assert_eq!(unescape(b"\\"), b"\\");
        assert_eq!(unescape(b"\\9x\\"), b"\\9x\\");
    }
}
