//! `nacre checkpoint` and `nacre restore`: CRIU's work (<https://criu.org>), at its command
//! line.

mod criu;
mod restore;

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use crate::{cli::Checkpoint, state::Status};

use super::{Found, ProcessError};

pub(crate) use criu::CriuError;
pub(crate) use restore::restore;

use criu::{Criu, LogFile};

/// Beside CRIU's images: what the standard streams were.
const DESCRIPTORS: &str = "descriptors.json";

/// Writes a container's state to image files. Returns whether it has ended thereby.
pub(crate) fn checkpoint(
    found: &Found<'_>,
    status: Status,
    program: &Path,
    arguments: &Checkpoint,
) -> Result<bool, ProcessError> {
    let init = match (status, found.process.init) {
        (Status::Running, Some(init)) => init.pid,
        (status, _) => return Err(CriuError::Status(status).into()),
    };
    let goes_on = arguments.leave_running || arguments.pre_dump;
    let command = match arguments.pre_dump {
        true => "pre-dump",
        false => "dump",
    };
    let mut criu = Criu::new(program, command, &arguments.criu, LogFile::Dump)?;
    fs::create_dir_all(criu.images()).map_err(|e| criu.no_directory(e))?;
    criu.arg("--tree").arg(init.to_string());
    criu.arg("--root").arg(&found.record.rootfs);
    if arguments.leave_running {
        criu.arg("--leave-running");
    }
    if arguments.pre_dump {
        criu.arg("--track-mem");
    }
    if let Some(parent) = &arguments.parent_path {
        criu.arg("--track-mem").arg("--prev-images-dir").arg(parent);
    }
    if arguments.status_fd >= 0 {
        criu.arg("--status-fd").arg(arguments.status_fd.to_string());
    }
    if let Some(server) = &arguments.page_server {
        let (address, port) = server
            .rsplit_once(':')
            .ok_or_else(|| CriuError::PageServer(server.clone()))?;
        criu.arg("--page-server").arg("--address").arg(address);
        criu.arg("--port").arg(port);
    }
    let streams = streams(init).map_err(|e| criu.no_directory(e))?;
    for stream in streams.iter().filter(|stream| stream.starts_with("file[")) {
        criu.arg("--external").arg(stream);
    }
    serde_json::to_vec(&streams)
        .map_err(io::Error::from)
        .and_then(|json| fs::write(criu.images().join(DESCRIPTORS), json))
        .map_err(|e| criu.no_directory(e))?;
    criu.run()?;
    Ok(!goes_on)
}

/// What CRIU calls the standard streams that come from outside of the container, which get
/// others in their place when it is restored; an empty name for those that don't.
fn streams(init: i32) -> io::Result<[String; 3]> {
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
        match inside {
            true => Ok(String::new()),
            false => Ok(format!("file[{mount:x}:{:x}]", fs::metadata(&path)?.ino())),
        }
    };
    Ok([name(0)?, name(1)?, name(2)?])
}
