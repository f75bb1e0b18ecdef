//! Keeps this program out of reach of its containers (CVE-2019-5736) if it enters one.

use std::ffi::OsString;

use nacre_agent::container::protect_executable;

use crate::{binary, config::Isolation};

use super::error::Error;

/// The commands that clone a process into a container.
const ENTERING: [&str; 4] = ["create", "run", "exec", "restore"];

/// Runs this program anew from a file that no container can write to, unless that has been done.
pub(crate) fn protect() -> Result<(), Error> {
    // SAFETY: nothing before this creates a thread.
    unsafe { binary::tell(protect_executable) }.map_err(Error::Executable)
}

/// Returns whether a command line, which may be invalid, shows at a glance that a process of this
/// program will become a process of a container on the host's kernel. An annotation or the
/// configuration file may say so too, which turns out later.
pub(crate) fn surely_enter_a_container(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut arguments = arguments.peekable();
    let binary = Isolation::from_binary(arguments.peek().map(OsString::as_os_str));
    let (mut flag, mut enters) = (None, false);
    while let Some(argument) = arguments.next() {
        let argument = argument.to_str().unwrap_or_default();
        enters |= ENTERING.contains(&argument);
        if let Some(value) = argument.strip_prefix("--isolation") {
            let next = arguments.peek().and_then(|next| next.to_str());
            let value = value.strip_prefix('=').or(next);
            flag = flag.or(value.map(str::to_owned));
        }
    }
    let process = Isolation::Process;
    enters && flag.map_or(binary == Some(process), |flag| flag == process.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_sure_is_told_at_a_glance() {
        for (line, sure) in [
            ("nacre --isolation=process run a", true),
            ("nacre --root /r --isolation process create a", true),
            ("/usr/bin/nacre-process exec a true", true),
            ("nacre run a", false),
            ("nacre-vm run a", false),
            ("nacre-process --isolation=vm run a", false),
            ("nacre-process state a", false),
            ("nacre run --isolation", false),
            ("nacre", false),
        ] {
            let arguments = line.split(' ').map(OsString::from);
            assert_eq!(surely_enter_a_container(arguments), sure, "{line}");
        }
        assert!(!surely_enter_a_container(std::iter::empty()));
    }
}
