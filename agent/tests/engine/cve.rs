//! Vulnerabilities of other runtimes, each by its number, as far as no command line shows that they
//! stay closed. Those about the runtime's own program,
//! leaked descriptors, labels and terminals are in the tests of those subjects.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nacre_agent::container::describe;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio};
use crate::hostile::{Adversary, Words};

tests![
    cve_2021_30465_mounts_stay_inside_while_links_are_exchanged,
    cve_2023_25809_a_cgroup_mount_without_a_namespace_is_read_only,
    cve_2023_28642_nor_while_they_are_exchanged_for_links,
    cve_2024_45310_nothing_is_made_outside_while_links_are_exchanged,
    cve_2025_31133_a_dev_null_of_the_image_masks_nothing,
    cve_2025_31133_masks_stay_inside_while_links_are_exchanged,
];

/// How many containers are created while files are exchanged for links.
const TRIES: u32 = 60;

/// Runs as another process of a test: exchanges two files for one another, again and again.
pub(crate) fn exchange(mut words: Words) -> ExitCode {
    let is_wanted = Adversary::is_wanted(&mut words);
    let paths: [PathBuf; 2] = [words.next().unwrap().into(), words.next().unwrap().into()];
    while is_wanted() {
        let flags = RenameFlags::RENAME_EXCHANGE;
        if renameat2(AT_FDCWD, &paths[0], AT_FDCWD, &paths[1], flags).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Starts a process that exchanges two files.
fn exchanging(one: &Path, other: &Path) -> Adversary {
    Adversary::start("--exchange", [one, other])
}

/// Creates containers while `one` and `other` of their root are exchanged. Returns how many were
/// created, and the errors of the others.
fn create_while_exchanging(bundle: &Bundle, one: &str, other: &str) -> (u32, Vec<String>) {
    let mut exchange = exchanging(&bundle.at(one), &bundle.at(other));
    let (mut created, mut errors) = (0, Vec::new());
    for _ in 0..TRIES {
        match bundle.create(null_stdio()) {
            Ok(container) => {
                created += 1;
                container.destroy().unwrap();
            }
            Err(error) => errors.push(describe(&error)),
        }
    }
    assert!(exchange.goes_on(), "nothing was exchanged any more");
    (created, errors)
}

/// Makes a directory beside the root, into which nothing may ever get, with links to it in the
/// root: `link`, and `volume`, a directory with such a link for each of its entries.
fn with_outside(bundle: &Bundle) -> PathBuf {
    let outside = bundle.beside("outside");
    for directory in ["a", "b", "c", "d", "e"] {
        fs::create_dir_all(outside.join(directory)).unwrap();
    }
    fs::create_dir(bundle.at("volume")).unwrap();
    symlink(&outside, bundle.at("link")).unwrap();
    outside
}

/// Returns all files below a directory.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}

fn cve_2023_28642_nor_while_they_are_exchanged_for_links() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cd /proc; [ -e self/status ] && { [ -c version ] || echo bare; }
         cd /elsewhere; [ -e self/status ] && echo elsewhere; true",
    );
    fs::create_dir(bundle.at("proc")).unwrap();
    fs::create_dir(bundle.at("elsewhere")).unwrap();
    symlink("/elsewhere", bundle.at("link")).unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/version"]);
    let mut exchange = exchanging(&bundle.at("proc"), &bundle.at("link"));
    let mut errors = Vec::new();
    for _ in 0..2 * TRIES {
        match bundle.try_run() {
            Ok(outcome) => assert_eq!(outcome.stdout, "", "{outcome:?}"),
            Err(error) => errors.push(error),
        }
    }
    assert!(exchange.goes_on(), "nothing was exchanged any more");
    // It was a directory whenever it was used, or there was an error.
    assert!(errors.iter().all(|e| e.contains("/proc")), "{errors:?}");
    assert!(!errors.is_empty(), "no link was ever met");
    Ok(())
}

fn cve_2021_30465_mounts_stay_inside_while_links_are_exchanged() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let outside = with_outside(&bundle);
    for entry in ["a", "b", "c", "d", "e"] {
        fs::create_dir(bundle.at("volume").join(entry)).unwrap();
    }
    let before = tree(&outside);
    // What is mounted first would be seen outside when the mount on top of it is made.
    let tmpfs =
        |at: &str| json!({"destination": at, "type": "tmpfs", "source": "t", "options": ["rw"]});
    bundle.mount(tmpfs("/volume/a"));
    bundle.mount(tmpfs("/volume/b/made"));
    bundle.mount(json!({"destination": "/volume/c", "source": "/", "options": ["rbind", "ro"]}));
    bundle.mount(
        json!({"destination": "/volume/d/file", "source": "/etc/passwd", "options": ["bind"]}),
    );
    let copied = json!({"destination": "/volume/e", "type": "tmpfs", "options": ["tmpcopyup"]});
    bundle.mount(copied);
    let (created, errors) = create_while_exchanging(&bundle, "volume", "link");
    assert_eq!(tree(&outside), before);
    // Dangling links are followed inside the root.
    assert!(created > 0, "{errors:?}");
    Ok(())
}

fn cve_2024_45310_nothing_is_made_outside_while_links_are_exchanged() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let outside = with_outside(&bundle);
    let before = tree(&outside);
    bundle.mount(json!({
        "destination": "/volume/deep/file", "source": "/etc/passwd", "options": ["bind"],
    }));
    bundle.mount(json!({"destination": "/volume/b/x/y", "type": "tmpfs", "source": "t"}));
    bundle.config["process"]["cwd"] = json!("/volume/c/cwd");
    bundle.config["linux"]["devices"] =
        json!([{"path": "/volume/d/zero", "type": "c", "major": 1, "minor": 5}]);
    let (created, errors) = create_while_exchanging(&bundle, "volume", "link");
    assert_eq!(tree(&outside), before);
    assert!(created > 0, "{errors:?}");
    Ok(())
}

fn cve_2025_31133_masks_stay_inside_while_links_are_exchanged() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let outside = with_outside(&bundle);
    let before = tree(&outside);
    fs::create_dir(bundle.at("volume/a")).unwrap();
    fs::write(bundle.at("volume/secret"), "").unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/volume/a", "/volume/secret", "/proc/kcore"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/volume", "/proc/sys"]);
    let (created, errors) = create_while_exchanging(&bundle, "volume", "link");
    assert_eq!(tree(&outside), before);
    assert!(created > 0, "{errors:?}");
    // What isn't exchanged is masked, whatever happens beside it.
    let mut exchange = exchanging(&bundle.at("volume"), &bundle.at("link"));
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        "cat /proc/kcore | wc -c; echo x > /proc/sys/kernel/ostype"
    ]);
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "0\n", "{outcome:?}");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    assert!(exchange.goes_on());
    Ok(())
}

fn cve_2025_31133_a_dev_null_of_the_image_masks_nothing() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("stat -c '%F %t:%T' /secret");
    fs::write(bundle.at("secret"), "secret").unwrap();
    fs::create_dir(bundle.at("dev")).unwrap();
    symlink("/secret", bundle.at("dev/null")).unwrap();
    bundle.config["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    bundle.config["linux"]["maskedPaths"] = json!(["/secret"]);
    let (message, _) = bundle.error();
    assert!(
        message.contains("\"/dev/null\" is there already"),
        "{message}"
    );
    // If the device isn't made, the caller's device covers the secret.
    fs::create_dir(bundle.beside("dev")).unwrap();
    symlink("/secret", bundle.beside("dev/null")).unwrap();
    bundle.mount(
        json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"]}),
    );
    assert_eq!(bundle.output(), "character special file 1:3\n");
    Ok(())
}

fn cve_2023_25809_a_cgroup_mount_without_a_namespace_is_read_only() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cat /proc/self/mountinfo; for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/made; done",
    );
    bundle.all_capabilities();
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "cgroup");
    let outcome = bundle.run();
    let mounts = outcome
        .stdout
        .lines()
        .filter(|l| l.contains(" /sys/fs/cgroup"));
    let options: Vec<&str> = mounts.filter_map(|l| l.split(' ').nth(5)).collect();
    assert!(!options.is_empty(), "{outcome:?}");
    for options in options {
        assert!(options.split(',').any(|o| o == "ro"), "{outcome:?}");
    }
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    Ok(())
}
