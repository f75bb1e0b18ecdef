//! The workload's program: its arguments, environment and working directory.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, chdir, execve, faccessat, getcwd};
use oci_spec::runtime::Process;

use super::config::ConfigError;
use super::error::{InitError, Step};

/// A program that can't be run. The words are runc's: Docker and others look for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NotInPath,
    Errno(Errno),
}

/// What became of running a program.
#[derive(Debug, thiserror::Error)]
#[error("exec: {program:?}: {}", words(*.refusal))]
pub(super) struct ProgramError {
    program: String,
    refusal: Refusal,
}

fn words(refusal: Refusal) -> String {
    match refusal {
        Refusal::NotInPath => "executable file not found in $PATH".to_owned(),
        Refusal::Errno(errno) => {
            let mut words = errno.desc().to_owned();
            if let Some(first) = words.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            words
        }
    }
}

impl ProgramError {
    /// Whether there is no such file.
    pub(super) fn leads_nowhere(&self) -> bool {
        self.refusal == Refusal::Errno(Errno::ENOENT)
    }

    /// As a shell has it: 127 for a program that isn't there, 126 for one that can't be run.
    pub(super) fn exit_status(&self) -> u8 {
        match self.refusal {
            Refusal::NotInPath | Refusal::Errno(Errno::ENOENT | Errno::ENOTDIR) => 127,
            Refusal::Errno(_) => 126,
        }
    }
}

/// The program to run, ready for the kernel.
#[derive(Debug)]
pub(super) struct Program {
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: PathBuf,
}

impl Program {
    /// Understands `process`.
    pub(super) fn parse(process: &Process) -> Result<Self, ConfigError> {
        let strings = |name: &str, strings: &Option<Vec<String>>| {
            let strings = strings.as_deref().unwrap_or_default().iter().enumerate();
            strings
                .map(|(index, string)| {
                    CString::new(string.as_str()).map_err(|_| {
                        let field = format!("process.{name}[{index}]");
                        ConfigError::invalid(field, "it has a NUL character")
                    })
                })
                .collect::<Result<Vec<CString>, ConfigError>>()
        };
        let args = strings("args", process.args())?;
        if args.is_empty() {
            return Err(ConfigError::missing("process.args"));
        }
        let env = strings("env", process.env())?;
        for (index, variable) in env.iter().enumerate() {
            if variable.to_bytes().iter().skip(1).all(|b| *b != b'=') {
                let field = format!("process.env[{index}]");
                let problem = format!("{variable:?} isn't NAME=VALUE");
                return Err(ConfigError::invalid(field, problem));
            }
        }
        let cwd = process.cwd();
        if cwd.as_os_str().is_empty() {
            return Err(ConfigError::missing("process.cwd"));
        }
        if !cwd.is_absolute() {
            let problem = format!("{cwd:?} isn't absolute");
            return Err(ConfigError::invalid("process.cwd", problem));
        }
        Ok(Program {
            args,
            env: last_of_each(env),
            cwd: cwd.clone(),
        })
    }

    pub(super) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Adds `HOME` where the configuration doesn't say.
    pub(super) fn set_home(&mut self, home: impl FnOnce() -> Vec<u8>) {
        if self.variable("HOME").is_none() {
            let variable = [b"HOME=".as_slice(), &home()].concat();
            // What comes from a file may hold a NUL. Then there is no HOME.
            self.env.extend(CString::new(variable));
        }
    }

    fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|variable| {
            let value = variable.to_bytes().strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
    }

    /// Changes to the working directory. `false` if that isn't permitted.
    pub(super) fn enter_cwd(&self) -> Result<bool, InitError> {
        match chdir(&self.cwd) {
            Err(Errno::EACCES) => return Ok(false),
            other => other.step(|| format!("change to process.cwd {}", self.cwd.display()))?,
        }
        if self.cwd == Path::new("/") {
            return Ok(true);
        }
        // Through a leaked descriptor (`/proc/self/fd/7`), one could get outside of the root.
        // The kernel then has no path for it.
        match getcwd() {
            Ok(path) if path.is_absolute() => Ok(true),
            Ok(_) | Err(Errno::ENOENT) => Err(InitError::CwdOutside {
                path: self.cwd.display().to_string(),
            }),
            Err(error) => Err(error).step(|| "read the working directory's path"),
        }
    }

    /// The program's path, if it is given by one.
    pub(super) fn path(&self) -> Option<&CString> {
        let name = self.args.first()?;
        name.to_bytes().contains(&b'/').then_some(name)
    }

    /// Finds the program's file as this user in this working directory, by `PATH` if its name
    /// has no slash.
    pub(super) fn find(&self) -> Result<CString, ProgramError> {
        let Some(name) = self.args.first() else {
            return Err(self.refused(Refusal::NotInPath));
        };
        if name.to_bytes().contains(&b'/') {
            return match executable(OsStr::from_bytes(name.to_bytes())) {
                Ok(()) => Ok(name.clone()),
                Err(errno) => Err(self.refused(Refusal::Errno(errno))),
            };
        }
        let path = self.variable("PATH").unwrap_or_default();
        path.split(|b| *b == b':')
            // Nothing is run from where one happens to be unless it is said so.
            .filter(|directory| directory.starts_with(b"/") && !name.is_empty())
            .map(|directory| [directory, b"/", name.to_bytes()].concat())
            .find(|candidate| executable(OsStr::from_bytes(candidate)).is_ok())
            .and_then(|found| CString::new(found).ok())
            .ok_or_else(|| self.refused(Refusal::NotInPath))
    }

    /// Becomes the program. Returns only if that fails.
    pub(super) fn exec(&self, file: &CString) -> ProgramError {
        match execve(file, &self.args, &self.env) {
            Err(errno) => self.refused(Refusal::Errno(errno)),
        }
    }

    fn refused(&self, refusal: Refusal) -> ProgramError {
        let program = self.args.first().map(|name| name.to_string_lossy());
        ProgramError {
            program: program.unwrap_or_default().into_owned(),
            refusal,
        }
    }
}

/// Whether this process may execute the file.
fn executable(path: &OsStr) -> nix::Result<()> {
    let kind = stat(path)?.st_mode & SFlag::S_IFMT.bits();
    if kind == SFlag::S_IFDIR.bits() {
        return Err(Errno::EISDIR);
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// Of variables with the same name, the last one, as shells have it.
fn last_of_each(env: Vec<CString>) -> Vec<CString> {
    let name = |variable: &CString| {
        let bytes = variable.to_bytes();
        // A name may begin with the sign.
        let end = bytes
            .iter()
            .skip(1)
            .position(|b| *b == b'=')
            .map(|at| at + 1);
        bytes[..end.unwrap_or(bytes.len())].to_vec()
    };
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<CString> = env
        .into_iter()
        .rev()
        .filter(|variable| seen.insert(name(variable)))
        .collect();
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(args: &[&str], env: &[&str]) -> Result<Program, String> {
        let process = serde_json::json!({ "user": {}, "cwd": "/", "args": args, "env": env });
        Program::parse(&serde_json::from_value(process).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_the_kernel_could_not_take_is_refused() {
        for (args, env, error) in [
            (&[][..], &[][..], "process.args is missing"),
            (
                &["a", "b\0"],
                &[],
                "process.args[1]: it has a NUL character",
            ),
            (
                &["a"],
                &["A=1", "B"],
                "process.env[1]: \"B\" isn't NAME=VALUE",
            ),
            (&["a"], &["=x"], "process.env[0]: \"=x\" isn't NAME=VALUE"),
            (&["a"], &[""], "process.env[0]: \"\" isn't NAME=VALUE"),
        ] {
            assert_eq!(program(args, env).unwrap_err(), error);
        }
    }

    #[test]
    fn of_variables_of_one_name_the_last_counts() {
        let program = program(&["a"], &["A=1", "B=2", "A=3=4"]).unwrap();
        assert_eq!(program.env, [c"B=2".to_owned(), c"A=3=4".to_owned()]);
    }

    #[test]
    fn home_is_added_unless_it_is_there() {
        let mut with = program(&["a"], &["HOME=/x"]).unwrap();
        with.set_home(|| unreachable!());
        assert_eq!(with.variable("HOME"), Some(&b"/x"[..]));
        let mut without = program(&["a"], &["HOMER=/x"]).unwrap();
        without.set_home(|| b"/root".to_vec());
        assert_eq!(without.variable("HOME"), Some(&b"/root"[..]));
        let mut hostile = program(&["a"], &[]).unwrap();
        hostile.set_home(|| b"/\0".to_vec());
        assert_eq!(hostile.variable("HOME"), None);
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, mode) in [
            ("first/data", 0o644),
            ("second/data", 0o755),
            ("second/tool", 0o755),
        ] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(at("first/tool")).unwrap();
        let path = format!(
            "PATH=:relative:{}:{}",
            at("first").display(),
            at("second").display()
        );
        let find = |name: &str| {
            let program = program(&[name], &[&path]).unwrap();
            program.find().map_err(|e| (e.to_string(), e.exit_status()))
        };
        let is = |path: &Path| Ok(CString::new(path.as_os_str().as_bytes()).unwrap());

        assert_eq!(find("tool"), is(&at("second/tool")), "not the directory");
        assert_eq!(
            find("data"),
            is(&at("second/data")),
            "not the file without x"
        );
        let full = at("second/tool");
        assert_eq!(find(full.to_str().unwrap()), is(&full));
        let missing = |name: &str| {
            let message = format!("exec: {name:?}: executable file not found in $PATH");
            Err((message, 127))
        };
        assert_eq!(find("nothing"), missing("nothing"));
        assert_eq!(find(""), missing(""));

        let refused = |path: &str, words: &str, status| {
            assert_eq!(
                find(path),
                Err((format!("exec: {path:?}: {words}"), status))
            );
        };
        refused("/no/such", "no such file or directory", 127);
        refused("./nor/this", "no such file or directory", 127);
        refused(at("first/data").to_str().unwrap(), "permission denied", 126);
        refused(at("first").to_str().unwrap(), "is a directory", 126);
        refused(at("first/data/x").to_str().unwrap(), "not a directory", 127);
    }

    #[test]
    fn without_a_path_nothing_is_found() {
        let error = program(&["sh"], &[]).unwrap().find().unwrap_err();
        assert_eq!(error.exit_status(), 127);
    }
}
