//! Mount options, as `mount(8)` and the
//! [OCI runtime spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options)
//! spell them.

use oci_spec::runtime::Mount;

use crate::container::kernel::mount_calls::{Extent, MountAttributes};

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};

/// A mount's options, by what they apply to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// What `bind` or `rbind` binds.
    pub(crate) bind: Option<Extent>,
    /// Attributes of the mount itself.
    pub(crate) attributes: MountAttributes,
    /// Attributes of it and all mounts below it.
    pub(crate) recursive: MountAttributes,
    /// Change what is mounted at the destination instead of mounting.
    pub(crate) remount: bool,
    /// Start a tmpfs with the contents of the directory that it covers.
    pub(crate) copy_up: bool,
    /// On which mounts `idmap` or `ridmap` maps the owners of files.
    pub(crate) id_mapped: Option<Extent>,
    /// Parameters of the file system: a key, and a value where there is one.
    pub(crate) parameters: Vec<(String, Option<String>)>,
    /// Options that were given for a bind mount and have no effect on it.
    pub(crate) without_effect: Vec<String>,
}

/// Why options can't be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("mount option {0:?} is for bind mounts only")]
    OnlyForBind(&'static str),
}

/// What an option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Nothing,
    Bind(Extent),
    Set(u64),
    Clear(u64),
    /// The three modes of access times are values of one field.
    Atime(u64),
    Propagation(u64),
    /// A parameter that every file system has.
    Superblock,
    Remount,
    CopyUp,
    IdMap(Extent),
}

impl Effect {
    /// Whether it has a form for the mounts below too, with an `r` before its name.
    fn has_recursive_form(self) -> bool {
        use Effect::*;
        matches!(self, Set(_) | Clear(_) | Atime(_) | Propagation(_))
    }
}

/// Every option that isn't specific to some file systems.
const OPTIONS: [(&str, Effect); 41] = {
    use Effect::*;
    // The kernel's default is relative access times.
    let default_times = Atime(MOUNT_ATTR_RELATIME);
    [
        ("acl", Nothing),
        ("async", Nothing),
        ("defaults", Nothing),
        ("loud", Nothing),
        ("noiversion", Nothing),
        ("nomand", Nothing),
        ("silent", Nothing),
        ("bind", Bind(Extent::Mount)),
        ("rbind", Bind(Extent::Tree)),
        ("ro", Set(MOUNT_ATTR_RDONLY)),
        ("rw", Clear(MOUNT_ATTR_RDONLY)),
        ("nosuid", Set(MOUNT_ATTR_NOSUID)),
        ("suid", Clear(MOUNT_ATTR_NOSUID)),
        ("nodev", Set(MOUNT_ATTR_NODEV)),
        ("dev", Clear(MOUNT_ATTR_NODEV)),
        ("noexec", Set(MOUNT_ATTR_NOEXEC)),
        ("exec", Clear(MOUNT_ATTR_NOEXEC)),
        ("nosymfollow", Set(MOUNT_ATTR_NOSYMFOLLOW)),
        ("symfollow", Clear(MOUNT_ATTR_NOSYMFOLLOW)),
        ("nodiratime", Set(MOUNT_ATTR_NODIRATIME)),
        ("diratime", Clear(MOUNT_ATTR_NODIRATIME)),
        ("noatime", Atime(MOUNT_ATTR_NOATIME)),
        ("strictatime", Atime(MOUNT_ATTR_STRICTATIME)),
        ("relatime", default_times),
        ("atime", default_times),
        ("norelatime", default_times),
        ("nostrictatime", default_times),
        ("private", Propagation(libc::MS_PRIVATE)),
        ("slave", Propagation(libc::MS_SLAVE)),
        ("shared", Propagation(libc::MS_SHARED)),
        ("unbindable", Propagation(libc::MS_UNBINDABLE)),
        ("dirsync", Superblock),
        ("iversion", Superblock),
        ("lazytime", Superblock),
        ("mand", Superblock),
        ("nolazytime", Superblock),
        ("sync", Superblock),
        ("remount", Remount),
        ("tmpcopyup", CopyUp),
        ("idmap", IdMap(Extent::Mount)),
        ("ridmap", IdMap(Extent::Tree)),
    ]
};

/// Returns the mount options that are understood for any file system, sorted.
pub fn mount_options() -> Vec<String> {
    let recursive = OPTIONS.iter().filter(|(_, e)| e.has_recursive_form());
    let recursive = recursive.map(|(name, _)| format!("r{name}"));
    let plain = OPTIONS.iter().map(|(name, _)| (*name).to_owned());
    let mut names: Vec<String> = plain.chain(recursive).collect();
    names.sort();
    names
}

/// Returns what of its source a mount of a configuration binds; `None` if it binds nothing.
pub fn bound_extent(mount: &Mount) -> Option<Extent> {
    let options = mount.options().as_deref().unwrap_or_default();
    let bind_type = mount.typ().as_deref() == Some("bind");
    MountOptions::parse(options, bind_type).ok()?.bind
}

impl MountOptions {
    /// Sorts options by what they apply to. An unknown option is a parameter of the file system,
    /// which has no effect with `type_is_bind` and on bind mounts in general.
    pub(crate) fn parse(options: &[String], type_is_bind: bool) -> Result<Self, OptionError> {
        let mut parsed = MountOptions {
            bind: type_is_bind.then_some(Extent::Mount),
            ..Default::default()
        };
        for option in options.iter().flat_map(|o| o.split(',')) {
            parsed.add(option);
        }
        if parsed.bind.is_none()
            && let Some(extent) = parsed.id_mapped
        {
            return Err(OptionError::OnlyForBind(match extent {
                Extent::Mount => "idmap",
                Extent::Tree => "ridmap",
            }));
        }
        if parsed.bind.is_some() {
            parsed.leave_out_what_a_bind_has_no_use_for();
        }
        Ok(parsed)
    }

    /// Drops what has no effect on a bind mount, whose source is mounted already, with its own
    /// parameters. As runc does.
    fn leave_out_what_a_bind_has_no_use_for(&mut self) {
        let parameters = self.parameters.drain(..);
        self.without_effect = parameters.map(|(key, _)| key).collect();
        if std::mem::take(&mut self.copy_up) {
            self.without_effect.push("tmpcopyup".to_owned());
        }
    }

    fn add(&mut self, option: &str) {
        if option.is_empty() {
            return;
        }
        if let Some(effect) = effect(option) {
            return self.apply(option, effect, Extent::Mount);
        }
        // `rro` and so on: an option of a single mount with an r before it.
        let recursive = option.strip_prefix('r').and_then(effect);
        if let Some(effect) = recursive.filter(|effect| effect.has_recursive_form()) {
            return self.apply(option, effect, Extent::Tree);
        }
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (option, None),
        };
        self.parameters.push((key.to_owned(), value));
    }

    fn apply(&mut self, option: &str, effect: Effect, extent: Extent) {
        let attributes = match extent {
            Extent::Mount => &mut self.attributes,
            Extent::Tree => &mut self.recursive,
        };
        match effect {
            Effect::Nothing => {}
            Effect::Bind(extent) => self.bind = Some(extent),
            Effect::Set(flag) => {
                attributes.set |= flag;
                attributes.clear &= !flag;
            }
            Effect::Clear(flag) => {
                attributes.set &= !flag;
                attributes.clear |= flag;
            }
            Effect::Atime(value) => {
                attributes.set = attributes.set & !MOUNT_ATTR__ATIME | value;
                attributes.clear |= MOUNT_ATTR__ATIME;
            }
            Effect::Propagation(value) => {
                // The last one counts, recursive or not.
                self.attributes.propagation = 0;
                self.recursive.propagation = 0;
                match extent {
                    Extent::Mount => self.attributes.propagation = value,
                    Extent::Tree => self.recursive.propagation = value,
                }
            }
            Effect::Superblock => self.parameters.push((option.to_owned(), None)),
            Effect::Remount => self.remount = true,
            Effect::CopyUp => self.copy_up = true,
            Effect::IdMap(extent) => self.id_mapped = Some(extent),
        }
    }
}

fn effect(option: &str) -> Option<Effect> {
    let mut known = OPTIONS.iter();
    known
        .find(|(name, _)| *name == option)
        .map(|(_, effect)| *effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        MountOptions::parse(&options, false).unwrap()
    }

    #[test]
    fn attributes_and_parameters_are_told_apart() {
        let options = parse(&[
            "nosuid",
            "strictatime",
            "mode=755",
            "size=65536k",
            "newinstance",
        ]);
        assert_eq!(options.bind, None);
        assert_eq!(
            options.attributes,
            MountAttributes {
                set: MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME,
                clear: MOUNT_ATTR__ATIME,
                propagation: 0,
            }
        );
        let parameter = |key: &str, value: Option<&str>| (key.into(), value.map(Into::into));
        assert_eq!(
            options.parameters,
            [
                parameter("mode", Some("755")),
                parameter("size", Some("65536k")),
                parameter("newinstance", None),
            ]
        );
        assert_eq!(parse(&["mode=755,size=65536k"]).parameters.len(), 2);
    }

    #[test]
    fn the_last_of_two_that_contradict_each_other_counts() {
        assert_eq!(parse(&["ro", "rw"]).attributes.set, 0);
        assert_eq!(parse(&["ro", "rw"]).attributes.clear, MOUNT_ATTR_RDONLY);
        assert_eq!(parse(&["rw", "ro"]).attributes.set, MOUNT_ATTR_RDONLY);
        assert_eq!(parse(&["rw", "ro"]).attributes.clear, 0);
        let atime = parse(&["noatime", "strictatime"]).attributes;
        assert_eq!(atime.set, MOUNT_ATTR_STRICTATIME);
        let propagation = parse(&["rshared", "private"]);
        assert_eq!(propagation.attributes.propagation, libc::MS_PRIVATE);
        assert_eq!(propagation.recursive.propagation, 0);
    }

    #[test]
    fn an_r_before_makes_it_recursive() {
        let options = parse(&["rbind", "rro", "rnosuid", "rslave", "nodev"]);
        assert_eq!(options.bind, Some(Extent::Tree));
        assert_eq!(options.recursive.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
        assert_eq!(options.recursive.propagation, libc::MS_SLAVE);
        assert_eq!(options.attributes.set, MOUNT_ATTR_NODEV);
        // Not the recursive form of `elatime`, and `rsize` belongs to a file system.
        assert_eq!(parse(&["relatime"]).recursive, MountAttributes::default());
        assert_eq!(parse(&["rsize=4096"]).parameters.len(), 1);
        assert_eq!(parse(&["rsync"]).parameters, [("rsync".into(), None)]);
    }

    #[test]
    fn those_that_are_told_of_are_those_that_are_known() {
        let names = mount_options();
        assert!(names.len() > OPTIONS.len());
        for name in names {
            let mut options = MountOptions::default();
            options.add(&name);
            let superblock = effect(&name) == Some(Effect::Superblock);
            assert_eq!(options.parameters.is_empty(), !superblock, "{name}");
        }
        assert!(mount_options().contains(&"rnosymfollow".to_owned()));
    }

    #[test]
    fn every_recursive_option_of_the_spec_is_known() {
        for option in [
            "rro",
            "rrw",
            "rnosuid",
            "rsuid",
            "rnodev",
            "rdev",
            "rnoexec",
            "rexec",
            "rnoatime",
            "ratime",
            "rnodiratime",
            "rdiratime",
            "rrelatime",
            "rnorelatime",
            "rstrictatime",
            "rnostrictatime",
            "rnosymfollow",
            "rsymfollow",
            "rprivate",
            "rshared",
            "rslave",
            "runbindable",
        ] {
            let options = parse(&[option]);
            assert!(options.parameters.is_empty(), "{option}");
            assert_ne!(options.recursive, MountAttributes::default(), "{option}");
            assert_eq!(options.attributes, MountAttributes::default(), "{option}");
        }
    }

    #[test]
    fn what_a_bind_mount_has_no_use_for_is_left_out() {
        let parse = |options: &[&str], type_is_bind| {
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            MountOptions::parse(&options, type_is_bind)
        };
        for (options, type_is_bind, without_effect) in [
            (&["size=1k", "ro"][..], true, &["size"][..]),
            (&["rbind,sync", "ro"], false, &["sync"]),
            (&["tmpcopyup", "x", "ro"], true, &["x", "tmpcopyup"]),
        ] {
            let parsed = parse(options, type_is_bind).unwrap();
            assert_eq!(parsed.without_effect, without_effect);
            assert!(parsed.parameters.is_empty() && !parsed.copy_up);
            assert_eq!(parsed.attributes.set, MOUNT_ATTR_RDONLY);
        }
        let refused = parse(&["ridmap"], false);
        assert_eq!(refused, Err(OptionError::OnlyForBind("ridmap")));
    }
}
