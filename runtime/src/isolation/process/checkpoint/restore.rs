//! `nacre restore`: makes a container from image files.

use std::{
    fs::{self},
    path::Path,
};

use nacre_agent::container::{
    Identity,
    cgroups::{Cgroup, cgroup_path},
    config,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::prctl::set_child_subreaper,
    unistd::Pid,
};
use oci_spec::runtime::Spec;

use crate::{
    cli::Restore,
    config::bundle::Bundle,
    id::Id,
    isolation::{
        console,
        process::{
            create::{NewContainer, new_process},
            criu_error::CriuError,
            error::ProcessError,
            foreground::Foreground,
        },
        record::new_record,
        remains,
        signals::Signals,
        told,
    },
    state::{By, Folder, Store},
};

use super::{
    criu::{Criu, LogFile},
    streams::read_descriptors,
};

/// The file to which CRIU writes the restored init's pid, in its working directory.
const PID_FILE: &str = "nacre-restore.pid";

/// Restores a container; returns its workload's exit status, or 0 if it was detached.
pub(crate) fn restore(
    store: &Store,
    id: &Id,
    bundle: Bundle,
    program: &Path,
    arguments: &Restore,
) -> Result<u8, ProcessError> {
    let Bundle {
        directory,
        mut spec,
        json,
        ..
    } = bundle;
    if console::has_terminal(spec.process().as_ref()) || arguments.console_socket.is_some() {
        return Err(CriuError::Terminal.into());
    }
    config::resolve_paths(&mut spec, &directory);
    let signals = if arguments.detach {
        None
    } else {
        Some(Signals::block().map_err(ProcessError::host("can't block signals"))?)
    };
    if !arguments.detach && !arguments.no_subreaper {
        set_child_subreaper(true).map_err(ProcessError::host("can't become a subreaper"))?;
    }
    let folder = remains::claim(store, id)?;
    let mut process = new_process(false);
    let mut record = new_record(id, directory, &spec, By::Process(process.clone()));
    let restored = (|| {
        folder.write(&record)?;
        folder.write_config(&json)?;
        let cgroup = make_cgroup(&spec, id)?;
        process.cgroup = Some(cgroup.clone());
        let init = call(&record.rootfs, program, arguments).inspect_err(|_| {
            // The first error is the one to report.
            let _ = cgroup.remove();
        })?;
        process.init = Some(init);
        record.by = By::Process(process);
        Ok((cgroup, init))
    })();
    let (_, init) = match restored {
        Ok(restored) => restored,
        Err(error) => {
            return Err(abandon(folder, error));
        }
    };
    let made = NewContainer::restored(folder, record)?;
    if let Some(path) = &arguments.pid_file
        && let Err(error) = told::write(path, init.pid)
    {
        made.undo();
        return Err(error.into());
    }
    match signals {
        None => {
            made.folder.release()?;
            Ok(0)
        }
        Some(signals) => {
            let status = Foreground::new(signals, None)?.wait(Pid::from_raw(init.pid));
            made.destroy()?;
            status
        }
    }
}

fn abandon(folder: Folder, error: ProcessError) -> ProcessError {
    if let Err(also) = folder.remove() {
        tracing::warn!("{}", crate::log::chain(&also));
    }
    error
}

/// Makes the cgroup with its limits, where CRIU can put the processes.
fn make_cgroup(spec: &Spec, id: &Id) -> Result<Cgroup, ProcessError> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    Ok(Cgroup::create(&cgroup_path(path, id.as_str())?, resources)?)
}

/// Has CRIU restore the processes, the first of which becomes a child of this process.
fn call(root: &Path, program: &Path, arguments: &Restore) -> Result<Identity, ProcessError> {
    make_mount_point(root).map_err(ProcessError::host("can't mount the container's root"))?;
    let mut criu = Criu::new(program, "restore", &arguments.criu, LogFile::Restore)?;
    let pid_path = criu.work().join(PID_FILE);
    // CRIU doesn't overwrite an existing file.
    let _ = fs::remove_file(&pid_path);
    criu.arg("--root").arg(root);
    criu.arg("--restore-detached").arg("--restore-sibling");
    criu.arg("--pidfile").arg(&pid_path);
    if let Some(profile) = &arguments.lsm_profile {
        criu.arg("--lsm-profile").arg(profile);
    }
    if let Some(context) = &arguments.lsm_mount_context {
        criu.arg("--lsm-mount-context").arg(context);
    }
    for (fd, stream) in read_descriptors(criu.images())?.iter().enumerate() {
        if !stream.is_empty() {
            criu.arg("--inherit-fd").arg(format!("fd[{fd}]:{stream}"));
        }
    }
    criu.run()?;
    let pid = fs::read_to_string(&pid_path);
    let _ = fs::remove_file(&pid_path);
    let pid = pid.ok().and_then(|pid| pid.trim().parse().ok());
    let pid = pid.ok_or_else(|| CriuError::NoPid(pid_path.clone()))?;
    Identity::of(Pid::from_raw(pid))
        .map_err(ProcessError::host("can't look at the restored process"))
}

/// Makes the root a mount point, as CRIU needs, in a mount namespace that nobody else sees.
fn make_mount_point(root: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(none, "/", none, private, none)?;
    mount(
        Some(root),
        root,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
}
