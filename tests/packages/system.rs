//! Fresh Debian systems of a test's own, entered by chroot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nacre_tests::{Case, Outcome, place};

/// Debian's releases that packages are tried on.
pub(crate) const SUITES: [&str; 2] = ["bookworm", "trixie"];

/// For each of these a system, or why there is none.
static MADE: OnceLock<Vec<Result<PathBuf, String>>> = OnceLock::new();

/// Makes the systems that tests copy, which can take longer than a test may.
pub(crate) fn make_all() {
    MADE.get_or_init(|| SUITES.map(make).into());
}

fn make(suite: &str) -> Result<PathBuf, String> {
    let output = Command::new(place::repository().join("tests/fixtures/debian-system"))
        .arg(suite)
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(path.trim_end()))
}

/// A fresh system.
pub(crate) struct System {
    root: PathBuf,
}

/// Bind mounts and the rest are in a mount namespace of the command's own, and end with it.
const ENTER: &str = r#"
    mount --bind "$1" "$1"
    mount -t proc proc "$1/proc"
    mount --rbind /sys "$1/sys"
    mount --rbind /dev "$1/dev"
    cd "$1"
    exec chroot . /bin/sh -euc "$2"
"#;

impl System {
    /// Copies the system of a release, or ends the test as ignored if there is none.
    pub(crate) fn fresh(case: &Case, suite: &str) -> Self {
        let index = SUITES.iter().position(|&one| one == suite).unwrap();
        let made = match &MADE.get().unwrap()[index] {
            Ok(made) => made,
            Err(why) => case.ignore(&format!("no fresh Debian {suite}: {why}")),
        };
        let root = case.directory().join("system");
        let copied = Command::new("cp").arg("-a").args([made, &root]).status();
        assert!(copied.unwrap().success());
        Self { root }
    }

    /// Returns its root directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs a shell script in it, which ends at the first command that fails.
    pub(crate) fn run(&self, case: &Case, script: &str) -> Outcome {
        let mut command = case.mark(Command::new("unshare"));
        command
            .args(["--mount", "--propagation", "private", "--"])
            .args(["sh", "-euc", ENTER, "sh"])
            .arg(&self.root)
            .arg(script)
            .env("TMPDIR", "/tmp")
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("MANWIDTH", "100")
            .env_remove("MANPATH");
        case.spawn(command).finish()
    }

    /// Returns its files with their lengths, without what apt, dpkg and man keep about themselves.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, u64> {
        let mut files = BTreeMap::new();
        collect(&self.root, &self.root, &mut files);
        files
    }
}

const KEPT: [&str; 6] = [
    "var/lib/dpkg",
    "var/lib/apt",
    "var/log",
    "var/cache",
    "tmp",
    "run",
];

fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<PathBuf, u64>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap().to_owned();
        if KEPT.iter().any(|kept| name == Path::new(kept)) {
            continue;
        }
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            files.insert(name, 0);
            collect(root, &path, files);
        } else {
            files.insert(name, metadata.len());
        }
    }
}
