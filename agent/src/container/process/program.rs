//! The workload's program: its arguments, environment and working directory.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{SFlag, stat};
use nix::unistd::{AccessFlags, chdir, execve, faccessat, getcwd};

use crate::container::config::program::Program;
use crate::container::error::{InitError, ProgramError, Refusal, Step, StepError};

/// The file of a program.
pub(crate) struct ProgramFile {
    pub(crate) path: CString,
    /// Whether it existed when it was looked for.
    pub(crate) seen: bool,
}

impl Program {
    /// Adds `HOME` where the configuration lacks it or has it empty.
    pub(crate) fn set_home(&mut self, home: impl FnOnce() -> Vec<u8>) {
        if self.variable("HOME").is_none_or(<[u8]>::is_empty) {
            self.env.retain(|variable| variable.as_c_str() != c"HOME=");
            let variable = [b"HOME=".as_slice(), &home()].concat();
            // A value from a file may contain a NUL. Then there is no HOME.
            self.env.extend(CString::new(variable));
        }
    }

    /// Changes to the working directory. Returns `false` if that isn't permitted.
    pub(crate) fn enter_cwd(&self) -> Result<bool, InitError> {
        match chdir(&self.cwd) {
            Err(Errno::EACCES) => return Ok(false),
            other => other.step(|| format!("change to process.cwd {}", self.cwd.display()))?,
        }
        if self.cwd == Path::new("/") {
            return Ok(true);
        }
        // A leaked descriptor (`/proc/self/fd/7`) could lead outside of the root. The kernel then
        // has no path for the directory.
        match getcwd() {
            Ok(path) if path.is_absolute() => Ok(true),
            Ok(_) | Err(Errno::ENOENT) => Err(InitError::CwdOutside {
                path: self.cwd.display().to_string(),
            }),
            Err(error) => Err(StepError::new("read the working directory's path", error).into()),
        }
    }

    /// Finds the program's file as this user in this working directory, by `PATH` if its name has
    /// no slash. For a path, only a file that doesn't exist or may not be executed is an error:
    /// callers have no exit status for anything else, which the exec runs into.
    pub(crate) fn find(&self) -> Result<CString, ProgramError> {
        let Some(name) = self.args.first() else {
            return Err(self.refused(Refusal::NotInPath));
        };
        if name.to_bytes().contains(&b'/') {
            return match executable(OsStr::from_bytes(name.to_bytes())) {
                Err(errno @ (Errno::ENOENT | Errno::EACCES)) => {
                    Err(self.refused(Refusal::Errno(errno)))
                }
                _ => Ok(name.clone()),
            };
        }
        let path = self.variable("PATH").unwrap_or_default();
        path.split(|b| *b == b':')
            // Nothing is run from the working directory unless its path is given.
            .filter(|directory| directory.starts_with(b"/") && !name.is_empty())
            .map(|directory| [directory, b"/", name.to_bytes()].concat())
            .find(|candidate| executable(OsStr::from_bytes(candidate)).is_ok())
            .and_then(|found| CString::new(found).ok())
            .ok_or_else(|| self.refused(Refusal::NotInPath))
    }

    /// Becomes the program. Returns only if that fails.
    pub(crate) fn exec(&self, file: &CString) -> ProgramError {
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

/// Checks that this process may execute the file. Gives the error of an exec for a directory.
fn executable(path: &OsStr) -> nix::Result<()> {
    let kind = stat(path)?.st_mode & SFlag::S_IFMT.bits();
    if kind == SFlag::S_IFDIR.bits() {
        return Err(Errno::EACCES);
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
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
    fn home_is_added_unless_it_says_something() {
        let mut with = program(&["a"], &["HOME=/x"]).unwrap();
        with.set_home(|| unreachable!());
        assert_eq!(with.variable("HOME"), Some(&b"/x"[..]));
        let mut without = program(&["a"], &["HOMER=/x"]).unwrap();
        without.set_home(|| b"/root".to_vec());
        assert_eq!(without.variable("HOME"), Some(&b"/root"[..]));
        let mut empty = program(&["a"], &["HOME=", "A=1"]).unwrap();
        empty.set_home(|| b"/root".to_vec());
        assert_eq!(empty.env, [c"A=1".to_owned(), c"HOME=/root".to_owned()]);
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
        refused(at("first").to_str().unwrap(), "permission denied", 126);
        // Left to the exec.
        let beyond = at("first/data/x");
        assert_eq!(find(beyond.to_str().unwrap()), is(&beyond));
    }

    #[test]
    fn without_a_path_nothing_is_found() {
        let error = program(&["sh"], &[]).unwrap().find().unwrap_err();
        assert_eq!(error.exit_status(), 127);
    }
}
