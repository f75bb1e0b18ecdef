//! What a guest is given: a share with ways out of it, its words, a bundle.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nacre_agent::protocol::{CONTROL_PORT, VERSION};
use nacre_tests::{Bundle, Case};

use super::{MEMORY, MOODS};

/// Makes what the guest is shown, with ways out of it.
pub(super) fn fill(share: &Path, canary: &Path) {
    for directory in [
        "rootfs/dev",
        "rootfs/proc",
        "rootfs/sys",
        "rootfs/volume",
        "rootfs/fixed",
        "volume",
        "fixed",
    ] {
        fs::create_dir_all(share.join(directory)).unwrap();
    }
    for directory in ["rootfs", "volume", "fixed"].map(|name| share.join(name)) {
        fs::write(directory.join("a"), "a file\n").unwrap();
        symlink(canary, directory.join("out")).unwrap();
        symlink(canary.join("file"), directory.join("out-file")).unwrap();
        symlink("../../canary/file", directory.join("up")).unwrap();
    }
}

/// Has nacre boot the hostile guest, with its words in the agent's place.
pub(super) fn configure(case: &Case, canary: &Path, seed: u64) {
    let words = case.directory().join("words");
    let outside = canary.join("file");
    let mut text = format!(
        "hostile guest's words\nseed={seed}\nport={CONTROL_PORT}\nversion={VERSION}\noutside={}\n",
        outside.display(),
    );
    if let Ok(only) = std::env::var("NACRE_HOSTILE_ONLY") {
        text += &format!("only={only}\n");
    }
    fs::write(&words, text).unwrap();
    let configuration = format!(
        "[vm]\nkernel = {:?}\nagent = {words:?}\nboot-timeout = 600\nconsole-log = {:?}\ndisk-directory = {:?}\n",
        std::env::var("NACRE_HOSTILE_GUEST").unwrap(),
        case.directory().join("console"),
        std::env::temp_dir(),
    );
    fs::write(case.configuration(), configuration).unwrap();
}

/// Each second of those whose container runs has a root that is an overlay with a disk.
pub(super) fn bundle(case: &Case, share: &Path, seed: u64) -> Bundle {
    let volume = |bundle: Bundle, name: &str, options: &[&str]| {
        let source = share.join(name);
        bundle.mount(
            &format!("/{name}"),
            "bind",
            source.to_str().unwrap(),
            options,
        )
    };
    let bundle = Bundle::read_only(case.directory(), &share.join("rootfs"))
        .set("/root/readonly", false)
        .annotation("dev.nacre.vm.memory", &MEMORY.to_string());
    let bundle = volume(bundle, "volume", &["rbind", "rw", "nosuid", "nodev"]);
    let bundle = volume(bundle, "fixed", &["rbind", "ro"]);
    if seed / MOODS % 2 == 1 {
        bundle
            .annotation("dev.nacre.vm.rootfs", "overlay")
            .annotation("dev.nacre.vm.rootfs.disk", "32M")
    } else {
        bundle
    }
}
