//! What is in the packages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nacre_tests::{Case, place};

use crate::{directory, package};

nacre_tests::tests![
    packed_again_they_are_the_same,
    binaries_need_no_library,
    binaries_have_no_path_of_the_machine,
    the_kernels_source_is_told,
    each_crates_licence_is_there,
];

/// Packs the tree again, with other files' dates, another umask and another time zone.
fn packed_again_they_are_the_same(case: &Case) {
    let tree = case.directory().join("tree");
    let copied = Command::new("cp")
        .arg("-r")
        .args([&directory().join("tree/usr"), &tree])
        .status()
        .unwrap();
    assert!(copied.success());
    let again = case.directory().join("again");
    for (kind, name) in [("deb", "deb"), ("tar", "tar.xz")] {
        let mut pack = case.mark(Command::new("sh"));
        pack.args(["-c", "umask 077; exec \"$@\"", "sh"])
            .arg(place::repository().join("packaging/pack"))
            .arg(kind)
            .args([&tree, &again])
            .env("SOURCE_DATE_EPOCH", epoch())
            .env("TZ", "Pacific/Kiritimati");
        case.spawn(pack).finish().expect(0);
        let first = package(name);
        let second = again.join(first.file_name().unwrap());
        assert!(
            fs::read(&first).unwrap() == fs::read(second).unwrap(),
            "{kind}"
        );
    }
}

/// Returns the time of this commit, which packages have.
fn epoch() -> String {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(place::repository());
    let time = String::from_utf8(git.output().unwrap().stdout).unwrap();
    time.trim_end().to_owned()
}

fn binaries() -> [PathBuf; 2] {
    ["bin/nacre", "lib/nacre/nacre-agent"].map(|name| directory().join("tree/usr").join(name))
}

fn binaries_need_no_library(_: &Case) {
    for binary in binaries() {
        assert!(
            !needs_loader(&fs::read(&binary).unwrap()),
            "{}",
            binary.display()
        );
    }
    assert!(
        needs_loader(&fs::read("/bin/sh").unwrap()),
        "a program of Debian's"
    );
}

/// Returns whether an ELF file names a program that loads its libraries: a header of type
/// `PT_INTERP` (System V gABI, chapter 5).
fn needs_loader(elf: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        elf[at..][..length]
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(headers + index * size, 4) == 3)
}

fn binaries_have_no_path_of_the_machine(_: &Case) {
    let home = std::env::var("HOME").unwrap();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let here = place::repository().to_str().unwrap();
    for binary in binaries() {
        let content = fs::read(&binary).unwrap();
        for path in [here, &cargo] {
            let found = content
                .windows(path.len())
                .position(|part| part == path.as_bytes());
            let around =
                found.map(|at| String::from_utf8_lossy(&content[at..][..120]).into_owned());
            assert_eq!(around, None, "in {}", binary.display());
        }
    }
}

fn the_kernels_source_is_told(_: &Case) {
    let tree = directory().join("tree/usr/share/doc/nacre/kernel");
    let text = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
    let readme = text("README.md");
    assert!(
        readme.contains("General Public License, version 2"),
        "{readme}"
    );
    assert!(
        readme.contains("linux-source-6.12, version 6.12."),
        "{readme}"
    );
    assert!(text("config").contains("\nCONFIG_VIRTIO_FS=y\n"));
    for name in [
        "build",
        "pack-vmlinux",
        "building.md",
        "fragments/boot.config",
    ] {
        assert!(!text(name).is_empty(), "{name}");
    }
}

fn each_crates_licence_is_there(_: &Case) {
    let text = fs::read_to_string(directory().join("tree/usr/share/doc/nacre/third-party.txt"));
    let text = text.unwrap();
    for crate_ in ["clap v", "libseccomp v", "virtiofsd v", "vm-memory v"] {
        let of_texts = text.split_once("\n====").unwrap().1;
        assert!(text.contains(&format!("    {crate_}")), "{crate_}");
        assert!(of_texts.contains(crate_), "{crate_}");
    }
    assert!(text.contains("Permission is hereby granted, free of charge"));
}
