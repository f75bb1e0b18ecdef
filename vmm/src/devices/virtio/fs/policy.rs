//! What a container's configuration lets its guest make of the host's files.
//!
//! The guest's own kernel enforces the configuration on the workload. This is for a guest that was
//! taken over, and sends whatever it likes: here the host refuses it what no process of the
//! container could have been allowed. See docs/threat-model.md for what that covers.
//!
//! While a container is made, its guest runs nothing of the container, and makes device nodes and
//! mount points in its root. So rights are in force from [`Policy::enforce`] on, which comes before
//! the container's first program.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

pub(super) const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

const CAPABILITY: &[u8] = b"security.capability";

/// `struct vfs_ns_cap_data` (`linux/capability.h`): its revision, its size, and where the root id
/// of its user namespace is.
const VFS_CAP_REVISION_MASK: u32 = 0xff00_0000;
const VFS_CAP_REVISION_3: u32 = 0x0300_0000;
const VFS_CAP_SIZE_3: usize = 24;
const ROOT_ID: usize = 20;

/// Users' or groups' numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// All of them.
    Any,
    /// Those in one of these ranges.
    Only(Vec<RangeInclusive<u32>>),
}

impl Ids {
    fn contains(&self, id: u32) -> bool {
        match self {
            Ids::Any => true,
            Ids::Only(ranges) => ranges.iter().any(|range| range.contains(&id)),
        }
    }

    fn add(&mut self, more: Ids) {
        match (&mut *self, more) {
            (Ids::Any, _) => {}
            (_, Ids::Any) => *self = Ids::Any,
            (Ids::Only(ranges), Ids::Only(more)) => {
                for range in more {
                    // A command that is executed again and again brings nothing new.
                    if !ranges.contains(&range) {
                        ranges.push(range);
                    }
                }
            }
        }
    }
}

/// What processes of a container may be able to do with files, by their capabilities over the
/// guest's first user namespace, and by their users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// `CAP_MKNOD`: to make device nodes, on mounts that aren't `nodev`. Everybody may make
    /// overlays' whiteouts (0:0).
    pub makes_devices: bool,
    /// `CAP_SYS_ADMIN`: to use attributes named `trusted.*` and `security.*`; and to mount the
    /// share again without `nosuid` and `nodev`, which then bind nobody.
    pub administers: bool,
    /// `CAP_FSETID`: to write to a file that keeps its set-id bits, and to set that of any group.
    pub keeps_set_ids: bool,
    /// `CAP_FOWNER`: to set the set-id bits of others' files.
    pub acts_as_owner: bool,
    /// `CAP_SETFCAP`: to give files capabilities over that namespace. Everybody may give them over
    /// a user namespace of their own.
    pub sets_capabilities: bool,
    /// Whose files may be made.
    pub users: Ids,
    /// The groups of files that may be made.
    pub groups: Ids,
}

impl Rights {
    /// Adds what another process of the container may do.
    fn add(&mut self, more: Rights) {
        self.makes_devices |= more.makes_devices;
        self.administers |= more.administers;
        self.keeps_set_ids |= more.keeps_set_ids;
        self.acts_as_owner |= more.acts_as_owner;
        self.sets_capabilities |= more.sets_capabilities;
        self.users.add(more.users);
        self.groups.add(more.groups);
    }
}

/// Flags of one of the share's mounts, as the container has it. (It is read-only by its own flag on
/// the host.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFlags {
    /// Set-id bits and capabilities of files have no effect.
    pub nosuid: bool,
    /// Device nodes can't be opened.
    pub nodev: bool,
}

impl MountFlags {
    /// Those of a mount that nobody has told of.
    const STRICTEST: MountFlags = MountFlags {
        nosuid: true,
        nodev: true,
    };
}

/// What the guest of a share may do, which the devices of the share and whoever made them have in
/// common.
#[derive(Debug)]
pub struct Policy {
    /// By the mount's id (`stx_mnt_id` of statx(2)).
    mounts: HashMap<u64, MountFlags>,
    rights: RwLock<Option<Rights>>,
}

impl Policy {
    /// Makes a policy for a share of these mounts, each with its id (`stx_mnt_id` of statx(2)).
    /// Nothing is refused before [`enforce`](Self::enforce).
    pub fn new(mounts: HashMap<u64, MountFlags>) -> Policy {
        Policy {
            mounts,
            rights: RwLock::new(None),
        }
    }

    /// Refuses from now on what `rights` don't allow.
    pub fn enforce(&self, rights: Rights) {
        *self.rights.write().unwrap_or_else(PoisonError::into_inner) = Some(rights);
    }

    /// Allows what `more` allows, too: for a process that joins the container.
    pub fn widen(&self, more: Rights) {
        let mut rights = self.rights.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(rights) = &mut *rights {
            rights.add(more);
        }
    }

    fn rights(&self) -> RwLockReadGuard<'_, Option<Rights>> {
        // Nothing that holds the lock panics.
        self.rights.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the flags of a mount, if its id is known.
    pub fn mount(&self, id: Option<u64>) -> MountFlags {
        let flags = id.and_then(|id| self.mounts.get(&id));
        flags.copied().unwrap_or(MountFlags::STRICTEST)
    }

    /// Checks the owner of a file that is to be made, or to get an owner.
    pub(super) fn check_owner(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        match &*self.rights() {
            Some(rights)
                if user.is_some_and(|user| !rights.users.contains(user))
                    || group.is_some_and(|group| !rights.groups.contains(group)) =>
            {
                Err(refused(libc::EPERM))
            }
            _ => Ok(()),
        }
    }

    /// Checks the kind of a node (mknod(2)) that is to be made on the mount.
    pub(super) fn check_node(
        &self,
        mode: u32,
        device: u32,
        mount: impl FnOnce() -> MountFlags,
    ) -> io::Result<()> {
        let is_whiteout = mode & libc::S_IFMT == libc::S_IFCHR && device == 0;
        let is_device = matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        match &*self.rights() {
            Some(rights) if is_device && !is_whiteout => {
                let usable = rights.administers || !mount().nodev;
                if rights.makes_devices && usable {
                    return Ok(());
                }
                Err(refused(libc::EPERM))
            }
            _ => Ok(()),
        }
    }

    /// Returns the mode that a regular file of that user and group, on the mount, gets instead of
    /// `mode`.
    pub(super) fn mode(
        &self,
        mode: u32,
        user: u32,
        group: u32,
        mount: impl FnOnce() -> MountFlags,
    ) -> u32 {
        let rights = self.rights();
        let Some(rights) = &*rights else {
            return mode;
        };
        if mode & SET_IDS == 0 {
            return mode;
        }
        let is_theirs = rights.acts_as_owner || rights.users.contains(user);
        if !is_theirs || !rights.administers && mount().nosuid {
            return mode & !SET_IDS;
        }
        if !rights.keeps_set_ids && !rights.groups.contains(group) {
            return mode & !libc::S_ISGID;
        }
        mode
    }

    /// Returns whether a file loses its set-id bits when it is written to, whatever the guest says.
    pub(super) fn drops_set_ids(&self) -> bool {
        self.rights()
            .as_ref()
            .is_some_and(|rights| !rights.keeps_set_ids)
    }

    /// Checks whether an attribute may be set.
    pub(super) fn check_set(
        &self,
        name: &CStr,
        value: &[u8],
        mount: impl FnOnce() -> MountFlags,
    ) -> io::Result<()> {
        let rights = self.rights();
        let Some(rights) = &*rights else {
            return Ok(());
        };
        if rights.administers || !is_privileged(name) {
            return Ok(());
        }
        if name.to_bytes() != CAPABILITY {
            return Err(refused(libc::EPERM));
        }
        let allowed = match root_id(value) {
            Some(root @ 1..) => rights.users.contains(root),
            _ => rights.sets_capabilities,
        };
        if !allowed {
            return Err(refused(libc::EPERM));
        }
        if mount().nosuid {
            // Programs that copy files take this for a file system without capabilities.
            return Err(refused(libc::EOPNOTSUPP));
        }
        Ok(())
    }

    /// Checks whether an attribute may be removed. A file may always lose its capabilities: it does
    /// so when it is written to.
    pub(super) fn check_remove(&self, name: &CStr) -> io::Result<()> {
        match &*self.rights() {
            Some(rights)
                if !rights.administers && is_privileged(name) && name.to_bytes() != CAPABILITY =>
            {
                Err(refused(libc::EPERM))
            }
            _ => Ok(()),
        }
    }

    /// Checks whether an attribute may be read. As on the host, one that may not isn't there.
    pub(super) fn check_get(&self, name: &CStr) -> io::Result<()> {
        if self.hides_trusted() && name.to_bytes().starts_with(b"trusted.") {
            return Err(refused(libc::ENODATA));
        }
        Ok(())
    }

    /// Returns whether attributes named `trusted.*` aren't there for anybody.
    pub(super) fn hides_trusted(&self) -> bool {
        self.rights()
            .as_ref()
            .is_some_and(|rights| !rights.administers)
    }
}

/// Whether an attribute is one that not every owner of a file may set.
fn is_privileged(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"trusted.") || name.starts_with(b"security.")
}

/// Returns the root of the user namespace over which a file has capabilities, if its attribute
/// `security.capability` names one.
fn root_id(value: &[u8]) -> Option<u32> {
    let word = |at: usize| value.get(at..)?.first_chunk().copied();
    let revision = u32::from_le_bytes(word(0)?) & VFS_CAP_REVISION_MASK;
    if revision != VFS_CAP_REVISION_3 || value.len() != VFS_CAP_SIZE_3 {
        return None;
    }
    word(ROOT_ID).map(u32::from_le_bytes)
}

fn refused(error: libc::c_int) -> io::Error {
    io::Error::from_raw_os_error(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: MountFlags = MountFlags {
        nosuid: false,
        nodev: false,
    };

    fn none() -> Rights {
        Rights {
            makes_devices: false,
            administers: false,
            keeps_set_ids: false,
            acts_as_owner: false,
            sets_capabilities: false,
            users: Ids::Only(vec![1000..=1000]),
            groups: Ids::Only(vec![1000..=1000]),
        }
    }

    fn policy(rights: Rights) -> Policy {
        let policy = Policy::new(HashMap::from([(7, PLAIN)]));
        policy.enforce(rights);
        policy
    }

    fn errno(outcome: io::Result<()>) -> Option<i32> {
        outcome.err().map(|error| error.raw_os_error().unwrap())
    }

    fn capability(revision: u32, root: u32) -> Vec<u8> {
        let size = if revision == 2 { 20 } else { VFS_CAP_SIZE_3 };
        let mut value = vec![0; VFS_CAP_SIZE_3];
        value[..4].copy_from_slice(&(revision << 24).to_le_bytes());
        value[ROOT_ID..].copy_from_slice(&root.to_le_bytes());
        value.truncate(size);
        value
    }

    #[test]
    fn nothing_is_refused_while_the_container_is_made() {
        let policy = Policy::new(HashMap::new());
        let strict = || MountFlags::STRICTEST;
        policy.widen(none());
        assert_eq!(errno(policy.check_owner(Some(0), Some(0))), None);
        assert_eq!(errno(policy.check_node(libc::S_IFCHR, 0x103, strict)), None);
        assert_eq!(policy.mode(0o4755, 0, 0, strict), 0o4755);
        assert_eq!(errno(policy.check_set(c"trusted.x", b"", strict)), None);
        assert!(!policy.hides_trusted() && !policy.drops_set_ids());
    }

    #[test]
    fn a_mount_that_nobody_has_told_of_is_the_strictest() {
        let policy = policy(none());
        assert_eq!(policy.mount(Some(7)), PLAIN);
        assert_eq!(policy.mount(Some(8)), MountFlags::STRICTEST);
        assert_eq!(policy.mount(None), MountFlags::STRICTEST);
    }

    #[test]
    fn devices_take_the_capability_and_the_mount() {
        let made = |rights: Rights, mount| {
            let policy = policy(rights);
            let block = errno(policy.check_node(libc::S_IFBLK | 0o600, 0x801, || mount));
            // Anybody may make these.
            for kind in [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFREG, libc::S_IFCHR] {
                assert_eq!(errno(policy.check_node(kind, 0, || mount)), None);
            }
            assert_eq!(
                errno(policy.check_node(libc::S_IFCHR, 0x103, || mount)),
                block
            );
            block
        };
        let can = Rights {
            makes_devices: true,
            ..none()
        };
        let may_mount = Rights {
            administers: true,
            ..can.clone()
        };
        assert_eq!(made(none(), PLAIN), Some(libc::EPERM));
        assert_eq!(made(can.clone(), PLAIN), None);
        assert_eq!(made(can, MountFlags::STRICTEST), Some(libc::EPERM));
        assert_eq!(made(may_mount, MountFlags::STRICTEST), None);
    }

    #[test]
    fn file_capabilities_take_the_capability_or_a_namespace_of_ones_own() {
        let set = |rights: Rights, value: &[u8], mount| {
            errno(policy(rights).check_set(c"security.capability", value, || mount))
        };
        let can = Rights {
            sets_capabilities: true,
            ..none()
        };
        let eperm = Some(libc::EPERM);
        assert_eq!(set(none(), &capability(2, 0), PLAIN), eperm);
        assert_eq!(set(none(), &capability(3, 0), PLAIN), eperm);
        assert_eq!(set(none(), &capability(3, 1001), PLAIN), eperm);
        assert_eq!(set(none(), &capability(3, 1000)[..23], PLAIN), eperm);
        assert_eq!(set(none(), b"", PLAIN), eperm);
        assert_eq!(set(none(), &capability(3, 1000), PLAIN), None);
        assert_eq!(set(can.clone(), &capability(2, 0), PLAIN), None);
        let unsupported = Some(libc::EOPNOTSUPP);
        let strict = MountFlags::STRICTEST;
        assert_eq!(set(can, &capability(2, 0), strict), unsupported);
        assert_eq!(set(none(), &capability(3, 1000), strict), unsupported);
    }

    #[test]
    fn a_process_that_joins_brings_its_rights() {
        let policy = policy(none());
        assert_eq!(errno(policy.check_owner(Some(1000), Some(1000))), None);
        assert_eq!(errno(policy.check_owner(None, None)), None);
        assert_eq!(errno(policy.check_owner(Some(0), None)), Some(libc::EPERM));
        assert_eq!(errno(policy.check_owner(None, Some(0))), Some(libc::EPERM));
        let root = Rights {
            administers: true,
            users: Ids::Only(vec![0..=0]),
            groups: Ids::Any,
            ..none()
        };
        policy.widen(root.clone());
        policy.widen(root);
        assert_eq!(errno(policy.check_owner(Some(0), Some(7))), None);
        assert_eq!(errno(policy.check_owner(Some(1), None)), Some(libc::EPERM));
        assert!(!policy.hides_trusted());
        let rights = policy.rights();
        let users = Ids::Only(vec![1000..=1000, 0..=0]);
        assert_eq!(rights.as_ref().unwrap().users, users);
    }

    #[test]
    fn privileged_attributes_take_cap_sys_admin() {
        let policy = policy(none());
        let set = |name: &CStr| errno(policy.check_set(name, b"x", || PLAIN));
        assert_eq!(set(c"trusted.overlay.opaque"), Some(libc::EPERM));
        assert_eq!(set(c"security.ima"), Some(libc::EPERM));
        assert_eq!(set(c"user.trusted."), None);
        assert_eq!(set(c"system.posix_acl_access"), None);
        let remove = |name: &CStr| errno(policy.check_remove(name));
        assert_eq!(remove(c"trusted.x"), Some(libc::EPERM));
        assert_eq!(remove(c"security.capability"), None);
        assert_eq!(errno(policy.check_get(c"trusted.x")), Some(libc::ENODATA));
        assert_eq!(errno(policy.check_get(c"security.ima")), None);
    }
}
