//! `nacre restore`: a container from image files.

use std::{
    fs::{self, File},
    io,
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
    isolation::{console, new_record, pid_file, signals::Signals},
    state::{By, Folder, Store},
};

use super::super::{
    ProcessError,
    create::{Made, new_process},
    foreground::Foreground,
};
use super::{
    CriuError, DESCRIPTORS,
    criu::{Criu, LogFile},
};

/// Where CRIU writes the restored init's pid, in its working directory.
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
    } = bundle;
    if console::has_terminal(spec.process().as_ref()) || arguments.console_socket.is_some() {
        return Err(CriuError::Terminal.into());
    }
    config::resolve_paths(&mut spec, &directory);
    let signals = match arguments.detach {
        true => None,
        false => Some(Signals::block().map_err(ProcessError::host("can't block signals"))?),
    };
    if !arguments.detach && !arguments.no_subreaper {
        set_child_subreaper(true).map_err(ProcessError::host("can't become a subreaper"))?;
    }
    let folder = store.claim(id)?;
    let mut process = new_process(false);
    let mut record = new_record(id, directory, &spec, By::Process(process.clone()));
    let restored = (|| {
        folder.write(&record)?;
        folder.write_config(&json)?;
        let cgroup = make_cgroup(&spec, id)?;
        process.cgroup = Some(cgroup.clone());
        let init = call(&record.rootfs, program, arguments).inspect_err(|_| {
            // The first error is the one to tell.
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
    let made = Made::restored(folder, record)?;
    if let Some(path) = &arguments.pid_file
        && let Err(error) = pid_file::write(path, init.pid)
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

/// The cgroup with its limits, in which CRIU finds itself able to put the processes.
fn make_cgroup(spec: &Spec, id: &Id) -> Result<Cgroup, ProcessError> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    Ok(Cgroup::create(&cgroup_path(path, id.as_str())?, resources)?)
}

/// Has CRIU restore the processes, the first of which becomes a child of this one.
fn call(root: &Path, program: &Path, arguments: &Restore) -> Result<Identity, ProcessError> {
    make_mount_point(root).map_err(ProcessError::host("can't mount the container's root"))?;
    let mut criu = Criu::new(program, "restore", &arguments.criu, LogFile::Restore)?;
    let pid_path = criu.work().join(PID_FILE);
    // CRIU doesn't overwrite one.
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

/// CRIU wants the root to be one, without others hearing of it.
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

fn read_descriptors(images: &Path) -> Result<[String; 3], CriuError> {
    let path = images.join(DESCRIPTORS);
    let file = File::open(&path).map_err(|source: io::Error| CriuError::Images {
        path: path.clone(),
        source,
    })?;
    serde_json::from_reader(file).map_err(|source| CriuError::Descriptors { path, source })
}
