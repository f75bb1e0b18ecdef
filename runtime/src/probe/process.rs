//! The process that looks: its kernel, its rights, its namespaces, and whom it sees.

use std::{collections::BTreeMap, fs, path::Path};

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use crate::isolation::confinement::{Status, label};

/// What a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnProcess {
    /// Whether `/proc` is there, from which most of this is.
    pub(crate) is_seen: bool,
    /// The kernel's release and version.
    pub(crate) kernel: String,
    pub(crate) uid: u32,
    /// The effective capabilities, a bit each.
    pub(crate) capabilities: u64,
    pub(crate) no_new_privileges: bool,
    /// Whether a filter of system calls is in force.
    pub(crate) is_filtered: bool,
    /// The label of a security module, if there is one.
    pub(crate) label: Option<String>,
    /// Its namespaces, by the names in `/proc/self/ns`.
    pub(crate) namespaces: BTreeMap<String, String>,
    /// How many processes it sees besides itself.
    pub(crate) others: usize,
    /// Whether the kernel's log can be read.
    pub(crate) reads_log: bool,
    /// Whether the kernel tells where its functions are.
    pub(crate) knows_addresses: bool,
}

impl OwnProcess {
    pub(super) fn look() -> Self {
        let own = Path::new("/proc/self");
        let status = Status::read(own.join("status"));
        let number = |name| status.as_ref().and_then(|status| status.number(name));
        let capabilities = status.as_ref().and_then(|status| status.set("CapEff"));
        Self {
            is_seen: status.is_some(),
            kernel: kernel(),
            uid: nix::unistd::geteuid().as_raw(),
            capabilities: capabilities.unwrap_or(0),
            no_new_privileges: number("NoNewPrivs") == Some(1),
            is_filtered: number("Seccomp") == Some(2),
            label: label(own),
            namespaces: namespaces(),
            others: others(),
            reads_log: reads_log(),
            knows_addresses: knows_addresses(),
        }
    }
}

/// Returns the release and version of the kernel that answers here.
pub(crate) fn kernel() -> String {
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    uname().map_or(String::new(), |it| {
        format!("{} {}", text(it.release()), text(it.version()))
    })
}

/// Returns the release of a kernel that was found so.
pub(crate) fn release(kernel: &str) -> &str {
    kernel.split(' ').next().unwrap_or_default()
}

/// Returns this process's namespaces.
pub(crate) fn namespaces() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/self/ns")
        .into_iter()
        .flatten()
        .flatten();
    let entries = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        // Those of children are the same, unless somebody has asked for others.
        (!name.ends_with("_for_children")).then(|| (name, target.to_string_lossy().into_owned()))
    });
    entries.collect()
}

fn others() -> usize {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    let is_other = |name: &std::ffi::OsString| {
        let bytes = name.as_encoded_bytes();
        bytes.iter().all(u8::is_ascii_digit) && bytes != own.as_bytes()
    };
    names.filter(is_other).count()
}

/// Whether syslog(2) reads the kernel's messages.
fn reads_log() -> bool {
    const READ_ALL: libc::c_int = 3;
    let mut buffer = [0u8; 64];
    // SAFETY: the buffer is as long as the call is told.
    let length = unsafe {
        libc::klogctl(
            READ_ALL,
            buffer.as_mut_ptr().cast(),
            buffer.len() as libc::c_int,
        )
    };
    length >= 0
}

/// Whether `/proc/kallsyms` has addresses, and not only zeroes.
fn knows_addresses() -> bool {
    use std::io::Read;
    let mut start = String::new();
    let read = fs::File::open("/proc/kallsyms")
        .and_then(|file| file.take(4096).read_to_string(&mut start));
    read.is_ok()
        && start
            .lines()
            .filter_map(|line| line.split(' ').next())
            .any(|address| address.len() == 16 && address.bytes().any(|byte| byte != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let own = OwnProcess::look();
        assert!(own.kernel.contains(' ') && own.others > 0);
        assert!(own.namespaces["mnt"].starts_with("mnt:["));
        assert!(own.is_seen);
    }
}
