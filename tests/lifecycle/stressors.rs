//! stress-ng's stressors of files, which are third-party code, in the root and in a volume.

use std::fs;
use std::path::Path;

use nacre_tests::place::in_testbed;
use nacre_tests::{Case, Isolation, fixtures};

use super::files::privileged;

nacre_tests::tests![in_the_root, in_a_volume];

/// The stressors of its class `filesystem` that are left out.
const WITHOUT: [&str; 7] = [
    // They have nothing to do with the files here.
    "eventfd",
    "ioprio",
    "procfs",
    // It mounts a file system of its own.
    "binderfs",
    // stress-ng itself refuses it: it "may hang or reboot the machine".
    "bind-mount",
    // They make and remove 8192 names a round, which takes an emulated VM minutes.
    "link",
    "symlink",
];

/// Stressors of other classes that work on files. io-uring isn't among them: it opens a file by a
/// name that it has removed, and so fails on every file system.
const OTHERS: [&str; 8] = [
    "aio",
    "mmap",
    "msync",
    "readahead",
    "revio",
    "seek",
    "sendfile",
    "splice",
];

/// The stressors that run in the testbed, whose VMs are emulated twice.
const IN_THE_TESTBED: [&str; 5] = ["dentry", "flock", "hdd", "mmap", "rename"];

/// Runs every stressor, which works for a second, or less if it has done enough, checks its work,
/// and removes what it made.
const SCRIPT: &str = r#"
    mkdir -p "$0"; cd "$0"; count=0
    for stressor in ${3:-$(stress-ng --class 'filesystem?' | sed 's/.*: //') $2}; do
        case " $1 " in *" $stressor "*) continue;; esac
        size=
        case $stressor in
            dentry) size="--dentries 64";;
            dirdeep) size="--dirdeep-inodes 64";;
            seek) size="--seek-size 1M";;
            fallocate|fiemap|hdd|iomix|mmap|readahead|revio|sync-file)
                size="--$stressor-bytes 1M";;
        esac
        said=$(timeout 60 stress-ng --verify --temp-path . --timeout 1 \
            --$stressor 1 --$stressor-ops 20 $size 2>&1) || echo "$stressor: $? $said"
        case $said in *skipping*) echo "$stressor is skipped";; esac
        count=$((count + 1))
    done
    ls -A; echo $count"#;

fn in_the_root(case: &Case) {
    stress(case, "/work", &case.directory().join("rootfs/work"));
}

fn in_a_volume(case: &Case) {
    let volume = case.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    stress(case, "/volume", &volume);
}

/// Runs them in a directory of the container, which is `shared` on the host.
fn stress(case: &Case, directory: &str, shared: &Path) {
    let root = fixtures::debian().unwrap_or_else(|why| case.ignore(why));
    let mut bundle = privileged(case)
        .annotation("dev.nacre.vm.memory", "512M")
        .args(["/bin/sh", "-c", SCRIPT, directory])
        .push("/process/args", WITHOUT.join(" "))
        .push("/process/args", OTHERS.join(" "));
    for (source, destination) in [
        ("usr", "/usr"),
        ("usr/lib", "/lib"),
        ("usr/lib64", "/lib64"),
    ] {
        let source = root.join(source);
        bundle = bundle.mount(
            destination,
            "bind",
            source.to_str().unwrap(),
            &["rbind", "ro"],
        );
    }
    if directory == "/volume" {
        bundle = bundle.mount(directory, "bind", shared.to_str().unwrap(), &["rbind"]);
    }
    // What these two need and a VM's files don't have is in docs/vm-differences.md.
    let (count, skipped) = match case.isolation() {
        Isolation::Process => ("49", None),
        Isolation::Vm if in_testbed() => {
            bundle = bundle.push("/process/args", IN_THE_TESTBED.join(" "));
            ("5", Some(""))
        }
        Isolation::Vm => ("49", Some("fiemap is skipped\nverity is skipped\n")),
    };
    let output = case.run(&bundle).ok();
    let rest = output.strip_suffix(&format!("{count}\n"));
    let rest = rest.unwrap_or_else(|| panic!("{output}"));
    assert!(
        rest.lines().all(|line| line.ends_with(" is skipped")),
        "{output}"
    );
    assert!(skipped.is_none_or(|skipped| rest == skipped), "{output}");
    assert_eq!(fs::read_dir(shared).unwrap().count(), 0);
}
