//! Images, made when needed: from busybox, and from the Debian root that debootstrap made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nacre_tests::{Case, bundle, fixtures};
use serde_json::json;

/// The names of the images.
pub(crate) const BUSYBOX: &str = "localhost/busybox:test";
pub(crate) const DEBIAN: &str = "localhost/debian:test";

/// Makes an archive of a busybox root.
pub(crate) fn busybox(case: &Case) -> PathBuf {
    let root = case.directory().join("busybox");
    let to = case.directory().join("busybox.tar");
    if to.exists() {
        return to;
    }
    bundle::make_busybox(&root);
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    archive(&root, &to, &[])
}

/// Makes an archive of the Debian root, without its largest parts.
pub(crate) fn debian(case: &Case) -> PathBuf {
    let root = fixtures::debian().unwrap_or_else(|why| case.ignore(why));
    let without = [
        "./usr/lib/gcc",
        "./usr/lib/x86_64-linux-gnu/*.a",
        "./usr/libexec",
        "./usr/share/doc",
        "./usr/share/locale",
        "./usr/share/man",
        "./usr/include",
    ];
    archive(root, &case.directory().join("debian.tar"), &without)
}

fn archive(root: &Path, to: &Path, without: &[&str]) -> PathBuf {
    let status = Command::new("tar")
        .arg("-C")
        .arg(root)
        .args(without.iter().map(|path| format!("--exclude={path}")))
        .args(["--numeric-owner", "-cf"])
        .arg(to)
        .arg(".")
        .status()
        .unwrap();
    assert!(status.success(), "tar: {status}");
    to.to_owned()
}

/// Makes an archive of an archived root in the format of `docker save`, for a user, or for root if
/// that is empty.
pub(crate) fn saved(case: &Case, layer: &Path, name: &str, user: &str) -> PathBuf {
    let directory = case.directory().join(format!("image{user}"));
    fs::create_dir(&directory).unwrap();
    fs::copy(layer, directory.join("layer.tar")).unwrap();
    let output = Command::new("sha256sum").arg(layer).output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap();
    let digest = digest.split(' ').next().unwrap();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/bin/sh"],
            "User": user,
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
    archive(&directory, &directory.with_extension("tar"), &[])
}
