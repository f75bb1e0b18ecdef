//! What a container may make of a volume's files, and what a VM's file server keeps out of the
//! host's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nacre_tests::{Bundle, Case};
use nix::sys::stat::makedev;
use serde_json::json;

nacre_tests::tests![
    layers_with_devices_and_set_id_programs_are_unpacked,
    a_volume_without_devices_and_set_id_programs_gets_none: Vm,
    an_administrators_volume_gets_them_all_the_same,
    exec_as_another_user_makes_that_users_files,
];

/// Gives a bundle a volume that everybody may write to.
fn with_volume(case: &Case, bundle: Bundle, options: &[&str]) -> (Bundle, PathBuf) {
    let source = case.directory().join("volume");
    fs::create_dir(&source).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).unwrap();
    let options = [&["rbind"], options].concat();
    let bundle = bundle.mount("/data", "bind", source.to_str().unwrap(), &options);
    (bundle, source)
}

fn with_capabilities(bundle: Bundle, capabilities: &[&str]) -> Bundle {
    ["bounding", "effective", "permitted"]
        .into_iter()
        .fold(bundle, |bundle, set| {
            bundle.set(&format!("/process/capabilities/{set}"), json!(capabilities))
        })
}

/// What is in a layer of an image, as it is unpacked.
const UNPACK: &str = "cd /data; mknod -m 666 null c 1 3; mknod disk b 8 0; mknod whiteout c 0 0
     echo program >su; chmod 4755 su; mkdir -m 2775 shared; mkfifo fifo
     stat -c '%n %a' su shared";

const USUAL: [&str; 5] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_unpacked(volume: &Path) {
    let number = |name: &str| fs::metadata(volume.join(name)).unwrap().rdev();
    let devices = [(1, 3), (8, 0), (0, 0)].map(|(major, minor)| makedev(major, minor));
    assert_eq!(["null", "disk", "whiteout"].map(number), devices);
    assert_eq!(mode(&volume.join("su")), 0o4755);
    assert_eq!(mode(&volume.join("shared")), 0o2775);
}

fn layers_with_devices_and_set_id_programs_are_unpacked(case: &Case) {
    let bundle = with_capabilities(case.busybox(), &USUAL);
    let (bundle, volume) = with_volume(case, bundle, &[]);
    let output = case.run(&bundle.shell(UNPACK)).ok();
    assert_eq!(output, "su 4755\nshared 2775\n");
    is_unpacked(&volume);
}

fn a_volume_without_devices_and_set_id_programs_gets_none(case: &Case) {
    let bundle = with_capabilities(case.busybox(), &USUAL);
    let (bundle, volume) = with_volume(case, bundle, &["nosuid", "nodev"]);
    let outcome = case.run(&bundle.shell(UNPACK));
    assert_eq!(outcome.text(), "su 755\nshared 2775\n");
    let refusals = outcome.stderr.matches("Operation not permitted").count();
    assert_eq!(refusals, 2, "{}", outcome.stderr);
    for name in ["null", "disk"] {
        assert!(!volume.join(name).exists());
    }
    let whiteout = fs::metadata(volume.join("whiteout")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(mode(&volume.join("su")), 0o755);
    assert_eq!(mode(&volume.join("shared")), 0o2775);
}

/// It could mount the volume again without these flags: engines in containers rely on that.
fn an_administrators_volume_gets_them_all_the_same(case: &Case) {
    let capabilities = [&USUAL[..], &["CAP_SYS_ADMIN"]].concat();
    let bundle = with_capabilities(case.busybox(), &capabilities);
    let (bundle, volume) = with_volume(case, bundle, &["nosuid", "nodev"]);
    case.run(&bundle.shell(UNPACK)).ok();
    is_unpacked(&volume);
}

fn exec_as_another_user_makes_that_users_files(case: &Case) {
    let bundle = with_capabilities(case.busybox(), &[])
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/noNewPrivileges", true);
    let (bundle, volume) = with_volume(case, bundle, &[]);
    case.detach(&bundle.shell("echo one >/data/first; exec sleep 1000"));
    let owner = |name: &str| {
        let made = fs::metadata(volume.join(name)).unwrap();
        (made.uid(), made.gid())
    };
    case.wait_for("the first file", || volume.join("first").exists());
    assert_eq!(owner("first"), (1000, 1000));
    let script = "echo two >/data/second && mkdir /data/directory";
    let words = ["exec", "--user", "7:8", case.id(), "sh", "-c", script];
    case.command(&words).ok();
    assert_eq!(owner("second"), (7, 8));
    assert_eq!(owner("directory"), (7, 8));
    case.remove_container();
}
