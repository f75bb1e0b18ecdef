//! `nacre checkpoint` and `nacre restore`, which call CRIU (<https://criu.org>) by its command
//! line.

use std::{fs, io, path::Path};

use crate::{
    cli::Checkpoint,
    isolation::process::{criu_error::CriuError, error::ProcessError, found::HostContainer},
    state::Status,
};

use super::{
    criu::{Criu, LogFile},
    streams::{DESCRIPTORS, streams},
};

/// Writes a container's state to image files. Returns whether that has ended it.
pub(crate) fn checkpoint(
    found: &HostContainer<'_>,
    status: Status,
    program: &Path,
    arguments: &Checkpoint,
) -> Result<bool, ProcessError> {
    let init = match (status, found.process.init) {
        (Status::Running, Some(init)) => init.pid,
        (status, _) => return Err(CriuError::Status(status).into()),
    };
    let goes_on = arguments.leave_running || arguments.pre_dump;
    let command = if arguments.pre_dump {
        "pre-dump"
    } else {
        "dump"
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
        criu.build_on(parent)?;
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
