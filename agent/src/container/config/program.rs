//! Parses `process.args`, `process.env` and `process.cwd`.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use super::error::ConfigError;

/// The program to run, ready for the kernel.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: PathBuf,
}

impl Program {
    /// Parses `process`.
    pub(crate) fn parse(process: &Process) -> Result<Self, ConfigError> {
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

    pub(crate) fn cwd(&self) -> &Path {
        &self.cwd
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&[u8]> {
        self.env.iter().find_map(|variable| {
            let value = variable.to_bytes().strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })
    }

    /// Returns the program's path, if it is given as one.
    pub(crate) fn path(&self) -> Option<&CString> {
        let name = self.args.first()?;
        name.to_bytes().contains(&b'/').then_some(name)
    }
}

/// Keeps the last of the variables with the same name, as shells do.
fn last_of_each(env: Vec<CString>) -> Vec<CString> {
    let name = |variable: &CString| {
        let bytes = variable.to_bytes();
        // A name may begin with `=`.
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
