//! The process that `nacre exec` starts, as the flags or a file describe it.

use std::path::{Path, PathBuf};

use nacre_agent::container::config::{self, ConfigError};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, User};

use crate::{
    cli::Exec,
    config::bundle::{BundleError, read_json},
};

/// What is wrong with the process that the flags describe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecProcessError {
    #[error("process args cannot be empty")]
    NoProgram,
    #[error("--user {0:?} isn't UID[:GID], both numbers")]
    User(String),
    #[error(transparent)]
    Read(#[from] BundleError),
    #[error("{path}")]
    Process {
        path: PathBuf,
        #[source]
        source: Box<ConfigError>,
    },
}

/// Reads the process from the file of `--process`.
pub(super) fn read(path: &Path) -> Result<Process, ExecProcessError> {
    let json = read_json(path)?;
    let (process, left_out) =
        config::read_process(&json).map_err(|source| ExecProcessError::Process {
            path: path.into(),
            source: source.into(),
        })?;
    for line in left_out {
        tracing::warn!("{}: {line}", path.display());
    }
    Ok(process)
}

/// Derives a process from the container's own, as the flags say.
pub(super) fn assemble(
    containers: Option<Process>,
    arguments: &Exec,
    program: &[String],
) -> Result<Process, ExecProcessError> {
    let mut process = containers.ok_or(ExecProcessError::NoProgram)?;
    if program.is_empty() {
        return Err(ExecProcessError::NoProgram);
    }
    process
        .set_args(Some(program.into()))
        .set_terminal(Some(arguments.tty))
        .set_console_size(None);
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(profile) = &arguments.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &arguments.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(arguments.env.iter().cloned());
    process.set_env(Some(env));
    if !arguments.cap.is_empty() {
        let more = capabilities(&arguments.cap);
        let held = process.capabilities().clone().unwrap_or_else(none);
        process.set_capabilities(Some(with(held, &more)));
    }
    // Scripts that have no user to name pass an empty one.
    if let Some(user) = arguments.user.as_deref().filter(|user| !user.is_empty()) {
        set_user(process.user_mut(), user)?;
    }
    if !arguments.additional_gids.is_empty() {
        let user = process.user_mut();
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&arguments.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    Ok(process)
}

fn set_user(user: &mut User, text: &str) -> Result<(), ExecProcessError> {
    let wrong = || ExecProcessError::User(text.into());
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    user.set_uid(uid.parse().map_err(|_| wrong())?);
    if let Some(gid) = gid {
        user.set_gid(gid);
    }
    Ok(())
}

/// Returns the capabilities that are known.
fn capabilities(names: &[String]) -> Vec<Capability> {
    let parse = |name: &String| {
        let capability = serde_json::from_value(name.as_str().into()).ok();
        if capability.is_none() {
            tracing::warn!("--cap {name:?} left out, as no capability of that name is known");
        }
        capability
    };
    names.iter().filter_map(parse).collect()
}

/// Returns no capabilities at all.
fn none() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None)
        .set_effective(None)
        .set_inheritable(None)
        .set_permitted(None)
        .set_ambient(None);
    none
}

/// Adds `more` to `held`, for root. Inheritable and ambient capabilities are passed on to programs
/// of an ordinary user, who was given nothing, so nothing is added to them.
fn with(mut held: LinuxCapabilities, more: &[Capability]) -> LinuxCapabilities {
    let add = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more);
        Some(set)
    };
    let (bounding, effective, permitted) = (
        add(held.bounding()),
        add(held.effective()),
        add(held.permitted()),
    );
    held.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    held
}

/// Splits `[CONTROLLER[,CONTROLLER]:]CGROUP` into the cgroup for each controller.
pub(super) fn cgroups(value: &str) -> impl Iterator<Item = (&str, &Path)> {
    let (controllers, path) = value.split_once(':').unwrap_or(("", value));
    let path = Path::new(path.trim_start_matches('/'));
    controllers
        .split(',')
        .map(move |controller| (controller, path))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn assembled(flags: &[&str]) -> Result<Process, ExecProcessError> {
        let line = ["nacre", "exec"].iter().chain(flags);
        let Command::Exec(exec) = Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        let mut spec = super::super::spec::document();
        spec["process"]["terminal"] = false.into();
        let process = serde_json::from_value(spec["process"].clone()).unwrap();
        assemble(Some(process), &exec, exec.words().1)
    }

    #[test]
    fn what_follows_the_id_is_the_programs() {
        let process = assembled(&["-e", "A=b", "id", "ls", "-e", "--debug", "--", "-x"]).unwrap();
        let args = process.args().clone().unwrap();
        assert_eq!(args, ["ls", "-e", "--debug", "--", "-x"]);
        assert_eq!(process.env().as_ref().unwrap().last().unwrap(), "A=b");
        assert_eq!(process.terminal(), Some(false));
    }

    #[test]
    fn flags_change_the_containers_process() {
        let process = assembled(&[
            "-t",
            "--cwd",
            "/tmp",
            "-u",
            "5:6",
            "-g",
            "7",
            "-g",
            "8",
            "--apparmor",
            "p",
            "--process-label",
            "l",
            "--cap",
            "CAP_SYS_TIME",
            "--cap",
            "CAP_FLY",
            "--no-new-privs",
            "id",
            "true",
        ])
        .unwrap();
        assert_eq!(process.terminal(), Some(true));
        assert_eq!(process.cwd(), Path::new("/tmp"));
        let ids = |process: &Process| (process.user().uid(), process.user().gid());
        assert_eq!(ids(&process), (5, 6));
        assert_eq!(ids(&assembled(&["-u", "", "id", "true"]).unwrap()), (0, 0));
        let user = process.user();
        assert_eq!(user.additional_gids().as_deref(), Some([7, 8].as_slice()));
        assert_eq!(process.apparmor_profile().as_deref(), Some("p"));
        assert_eq!(process.selinux_label().as_deref(), Some("l"));
        assert_eq!(process.no_new_privileges(), Some(true));
        let held = process.capabilities().as_ref().unwrap();
        let has = |set: &Option<Capabilities>| {
            set.as_ref()
                .is_some_and(|set| set.contains(&Capability::SysTime))
        };
        assert!(has(held.bounding()) && has(held.effective()) && has(held.permitted()));
        assert!(!has(held.inheritable()) && !has(held.ambient()));
    }

    #[test]
    fn flags_that_make_no_sense_are_refused() {
        for (flags, error) in [
            (&["id"][..], "process args cannot be empty"),
            (
                &["-u", "a", "id", "true"],
                "--user \"a\" isn't UID[:GID], both numbers",
            ),
            (
                &["-u", "1:", "id", "true"],
                "--user \"1:\" isn't UID[:GID], both numbers",
            ),
        ] {
            assert_eq!(assembled(flags).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn a_cgroup_may_be_of_certain_controllers() {
        let parsed = |value| cgroups(value).collect::<Vec<_>>();
        let path = Path::new("a/b");
        assert_eq!(parsed("a/b"), [("", path)]);
        assert_eq!(parsed("/a/b"), [("", path)]);
        assert_eq!(parsed("cpu,pids:a/b"), [("cpu", path), ("pids", path)]);
    }
}
