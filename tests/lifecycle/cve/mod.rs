//! What other runtimes got wrong, each by its number: the attack as its advisory describes it, from
//! outside, against the built programs. Each test says what would be seen if it worked.
//!
//! The engine's own tests (`agent/tests/engine/`) have the same from inside, with more of them lost
//! races.

mod processes;
mod root;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nacre_tests::{Bundle, Case, Isolation, Outcome, Test};
use serde_json::{Value, json};

/// All tests here; each says if one mode only is meant.
pub(crate) fn tests() -> Vec<Test> {
    let tests = [processes::tests(), root::tests()];
    tests.into_iter().flatten().collect()
}

/// A directory of the host's, beside the container's root, that no container has to do with.
struct Outside {
    path: PathBuf,
    before: Vec<String>,
}

/// What the file in it says.
const SECRET: &str = "a secret of the host";

impl Outside {
    /// With directories by the names given, and a file.
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

/// A line for each file in a directory, with all that a mistake would change.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let status = fs::symlink_metadata(&path).unwrap();
        let content = match status.is_file() {
            true => fs::read_to_string(&path).unwrap(),
            false => String::new(),
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

/// How often a race is run.
fn tries(case: &Case) -> usize {
    match case.isolation() {
        Isolation::Process => 40,
        Isolation::Vm => 3,
    }
}

/// Its mounts without those at and below some places.
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

/// With these capabilities, which a container is given that runs as root in Docker.
fn with_capabilities(bundle: Bundle, names: &[&str]) -> Bundle {
    ["bounding", "effective", "permitted"]
        .iter()
        .fold(bundle, |bundle, set| {
            bundle.set(&format!("/process/capabilities/{set}"), json!(names))
        })
}

/// Fails unless the container was refused with words that say why.
#[track_caller]
fn assert_refused(outcome: &Outcome, words: &str) {
    let message = outcome.refused(1);
    assert!(message.contains(words), "{message}");
}
