//! Overlays over directories of the host, which a configuration asks for as mounts: they are
//! mounted on the host, where those directories are, and the guest gets them through the share.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nacre_agent::container::outside::parameters;
use nix::mount::{MsFlags, mount};
use oci_spec::runtime::Mount;
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

use super::{file_systems, mount_options::options_of, source_error::SourceError};

/// The parameters of overlays that are directories, and whether one can hold several
/// ([kernel document](https://docs.kernel.org/filesystems/overlayfs.html)).
const LAYERS: [(&str, bool); 5] = [
    ("lowerdir", true),
    ("lowerdir+", false),
    ("datadir+", false),
    ("upperdir", false),
    ("workdir", false),
];

/// The most directories that the kernel takes for one (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

/// The longest parameters, all together, that mount(2) takes.
const MAX_LENGTH: usize = 4095;

/// An overlay.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::isolation::vm) struct Overlay {
    parameters: Vec<Parameter>,
}

#[derive(Debug, PartialEq, Eq)]
enum Parameter {
    /// An empty path lies between two layers of which only the first has names.
    Layers(String, Vec<PathBuf>),
    Other(String),
}

/// An overlay as a configuration mounts it.
#[derive(Debug)]
pub(super) struct OverlayMount {
    pub(super) overlay: Overlay,
    /// The mount's other options.
    pub(super) options: Vec<String>,
}

/// Returns the overlay that `mounts[index]` is, if it is one. The mount becomes a bind mount.
pub(super) fn take(
    directory: &Path,
    index: usize,
    mount: &mut Mount,
) -> Result<Option<OverlayMount>, SourceError> {
    let (flags, given): (Vec<String>, Vec<String>) = options_of(mount)
        .into_iter()
        .partition(|option| parameters(std::slice::from_ref(option)).is_empty());
    let is_other = |flag: &String| ["bind", "rbind", "remount"].contains(&flag.as_str());
    if mount.typ().as_deref() != Some("overlay") || flags.iter().any(is_other) {
        return Ok(None);
    }
    let overlay = Overlay {
        parameters: parameters(&given)
            .into_iter()
            .map(|(key, value)| Parameter::parse(directory, key, value))
            .collect(),
    };
    overlay.check(index)?;
    mount.set_typ(Some("bind".to_owned()));
    mount.set_options(Some([vec!["rbind".to_owned()], flags.clone()].concat()));
    Ok(Some(OverlayMount {
        overlay,
        options: flags,
    }))
}

impl Parameter {
    fn parse(directory: &Path, key: String, value: Option<String>) -> Self {
        let Some(value) = value else {
            return Self::Other(key);
        };
        match LAYERS.iter().find(|(layers, _)| *layers == key) {
            None => Self::Other(format!("{key}={value}")),
            Some((_, several)) => {
                let paths = split(&value, *several).into_iter();
                let paths = paths.map(|path| {
                    if path.is_empty() {
                        PathBuf::new()
                    } else {
                        directory.join(path)
                    }
                });
                Self::Layers(key, paths.collect())
            }
        }
    }
}

/// Splits a parameter into paths, in which a backslash escapes colons and backslashes.
fn split(value: &str, several: bool) -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        let character = match character {
            ':' if several => {
                paths.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(path) = paths.last_mut() {
            path.push(character);
        }
    }
    paths
}

impl Overlay {
    fn layers(&self) -> impl Iterator<Item = &PathBuf> {
        let parameters = self.parameters.iter();
        let paths = parameters.flat_map(|parameter| match parameter {
            Parameter::Layers(_, paths) => paths.as_slice(),
            Parameter::Other(_) => &[],
        });
        paths.filter(|path| !path.as_os_str().is_empty())
    }

    fn check(&self, index: usize) -> Result<(), SourceError> {
        if self.layers().count() > MAX_LAYERS {
            return Err(SourceError::TooManyLayers { index });
        }
        for path in self.layers() {
            let failed = |source| SourceError::LayerNotThere {
                index,
                path: path.clone(),
                source,
            };
            fs::read_dir(path).map_err(failed)?;
            if let Some(kind) = file_systems::not_served_at(path).map_err(failed)? {
                return Err(SourceError::LayerNotServed {
                    index,
                    path: path.clone(),
                    kind,
                });
            }
        }
        Ok(())
    }

    /// Mounts it at a directory. What somebody puts in a layer's place meanwhile is checked, too.
    pub(in crate::isolation::vm) fn mount(&self, target: &Path) -> io::Result<OwnedFd> {
        let mut opened = Vec::new();
        let mut words = Vec::new();
        for parameter in &self.parameters {
            words.push(match parameter {
                Parameter::Other(word) => word.clone(),
                Parameter::Layers(key, paths) => {
                    let paths: Vec<String> = paths
                        .iter()
                        .map(|path| open_layer(path, &mut opened))
                        .collect::<io::Result<_>>()?;
                    format!("{key}={}", paths.join(":"))
                }
            });
        }
        let data = words.join(",");
        if data.len() > MAX_LENGTH {
            let problem = "it has more directories than the kernel takes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let kind = Some("overlay");
        mount(kind, target, kind, MsFlags::empty(), Some(&*data))?;
        Ok(open_tree(CWD, target, OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
    }
}

/// Opens a layer, and returns a path to it that nobody can redirect.
fn open_layer(path: &Path, opened: &mut Vec<File>) -> io::Result<String> {
    if path.as_os_str().is_empty() {
        return Ok(String::new());
    }
    let layer = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)?;
    if let Some(kind) = file_systems::not_served_file(&layer)? {
        let problem = format!("it is in a file system of the type {kind}");
        return Err(io::Error::other(problem));
    }
    let name = format!("/proc/self/fd/{}", layer.as_raw_fd());
    opened.push(layer);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn overlay(options: &[&str]) -> (Result<Option<OverlayMount>, SourceError>, Mount) {
        let mount = json!({"destination": "/d", "type": "overlay", "options": options});
        let mut mount: Mount = serde_json::from_value(mount).unwrap();
        (take(Path::new("/usr"), 3, &mut mount), mount)
    }

    #[test]
    fn paths_are_told_apart() {
        assert_eq!(split("/a:b\\:c\\\\::/d", true), ["/a", "b:c\\", "", "/d"]);
        assert_eq!(split("/a:b", false), ["/a:b"]);
    }

    #[test]
    fn an_overlay_becomes_a_bind_mount_of_one() {
        let (taken, mount) = overlay(&["lowerdir=lib:/usr/bin", "index=off", "ro,volatile"]);
        let taken = taken.unwrap().unwrap();
        let layers = ["/usr/lib", "/usr/bin"].map(PathBuf::from).to_vec();
        let parameters = vec![
            Parameter::Layers("lowerdir".into(), layers),
            Parameter::Other("index=off".into()),
            Parameter::Other("volatile".into()),
        ];
        assert_eq!(taken.overlay, Overlay { parameters });
        assert_eq!(taken.options, ["ro"]);
        assert_eq!(mount.typ().as_deref(), Some("bind"));
        assert_eq!(mount.options().as_deref().unwrap(), ["rbind", "ro"]);
        assert!(overlay(&["remount", "ro"]).0.unwrap().is_none());
    }

    #[test]
    fn a_layer_that_cannot_be_shared_is_refused_by_name() {
        let refusal = |options: &[&str]| overlay(options).0.unwrap_err().to_string();
        let message = refusal(&["lowerdir=/usr:/none"]);
        assert!(
            message.starts_with("mounts[3].options: /none, a directory"),
            "{message}"
        );
        let message = refusal(&["lowerdir=/proc/self:/usr"]);
        assert!(
            message.contains("a file system of the type proc"),
            "{message}"
        );
        // Nor once such a file system has been mounted there.
        let message = refusal(&[&format!("lowerdir=/usr{}", ":/usr".repeat(MAX_LAYERS))]);
        assert!(message.contains("more directories"), "{message}");
        let layers = vec![Parameter::Layers("lowerdir".into(), vec!["/proc".into()])];
        let overlay = Overlay { parameters: layers };
        let error = overlay.mount(Path::new("/none")).unwrap_err();
        assert!(error.to_string().contains("the type proc"), "{error}");
    }
}
