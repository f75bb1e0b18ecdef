//! The standard streams of a container's first process, as CRIU names them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::isolation::process::criu_error::CriuError;

/// The file beside CRIU's images that says what the standard streams were.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// Returns CRIU's names for the standard streams that come from outside the container, which are
/// replaced when it is restored; an empty name for those that don't.
pub(super) fn streams(init: i32) -> io::Result<[String; 3]> {
    let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo"))?;
    let name = |fd: u32| -> io::Result<String> {
        let path = format!("/proc/{init}/fd/{fd}");
        let link = match fs::read_link(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            link => link?,
        };
        if link.as_os_str().as_encoded_bytes().starts_with(b"pipe:") {
            return Ok(link.to_string_lossy().into_owned());
        }
        let info = fs::read_to_string(format!("/proc/{init}/fdinfo/{fd}"))?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        let mount: u32 = mount.and_then(|id| id.trim().parse().ok()).unwrap_or(0);
        let inside = mounts
            .lines()
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .any(|id: u32| id == mount);
        if inside {
            Ok(String::new())
        } else {
            Ok(format!("file[{mount:x}:{:x}]", fs::metadata(&path)?.ino()))
        }
    };
    Ok([name(0)?, name(1)?, name(2)?])
}

pub(super) fn read_descriptors(images: &Path) -> Result<[String; 3], CriuError> {
    let path = images.join(DESCRIPTORS);
    let file = File::open(&path).map_err(|source: io::Error| CriuError::Images {
        path: path.clone(),
        source,
    })?;
    serde_json::from_reader(file).map_err(|source| CriuError::Descriptors { path, source })
}
