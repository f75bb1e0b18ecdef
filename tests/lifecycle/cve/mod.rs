//! Vulnerabilities of other runtimes, each by its number: the attack as its advisory describes it,
//! from outside, against the built programs. Each test's comment says what would be seen if it
//! worked.
//!
//! The engine's own tests (`agent/tests/engine/`) do the same from inside, with more of the lost
//! races.

mod processes;
mod root;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nacre_tests::{Bundle, Case, Isolation, Outcome, Test};
use serde_json::{Value, json};

/// Returns all tests here; a test for one mode only says so.
pub(crate) fn tests() -> Vec<Test> {
    let tests = [processes::tests(), root::tests()];
    tests.into_iter().flatten().collect()
}

/// A directory of the host, beside the container's root, that no container has access to.
struct Outside {
    path: PathBuf,
    before: Vec<String>,
}

/// The content of the file in it.
const SECRET: &str = "a secret of the host";

impl Outside {
    /// Makes it with directories of the given names, and a file.
    fn new(case: &Case, directories: &[&str]) -> Self {
        let path = case.directory().join("outside");
        for name in directories {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        fs::create_dir_all(&path).unwrap();
        for name in ["secret", "ptmx", "console", "null"] {
            fs::write(path.join(name), SECRET).unwrap();
        }
        let before = tree(&path);
        Self { path, before }
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(tree(&self.path), self.before);
    }
}

/// Returns a line for each file in a directory, with everything that an attack would change.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let status = fs::symlink_metadata(&path).unwrap();
        let content = if status.is_file() {
            fs::read_to_string(&path).unwrap()
        } else {
            String::new()
        };
        found.push(format!(
            "{path:?} {:o} {}:{} {} {content}",
            status.mode(),
            status.uid(),
            status.gid(),
            status.rdev()
        ));
        if status.is_dir() {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

/// Returns how often a race is run.
fn tries(case: &Case) -> usize {
    match case.isolation() {
        Isolation::Process => 40,
        Isolation::Vm => 3,
    }
}

/// Removes the mounts at and below some places from a bundle.
fn without_mounts(bundle: Bundle, places: &[&str]) -> Bundle {
    let default = json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
    ]);
    let kept = |mount: &&Value| !places.contains(&mount["destination"].as_str().unwrap());
    let mounts: Vec<Value> = default
        .as_array()
        .unwrap()
        .iter()
        .filter(kept)
        .cloned()
        .collect();
    bundle.set("/mounts", mounts)
}

/// Gives a container these capabilities, which Docker gives to a container that runs as root.
fn with_capabilities(bundle: Bundle, names: &[&str]) -> Bundle {
    ["bounding", "effective", "permitted"]
        .iter()
        .fold(bundle, |bundle, set| {
            bundle.set(&format!("/process/capabilities/{set}"), json!(names))
        })
}

/// Fails unless the container was refused with a message that says why.
#[track_caller]
fn assert_refused(outcome: &Outcome, words: &str) {
    let message = outcome.refused(1);
    assert!(message.contains(words), "{message}");
}
