//! User namespaces, and mounts on which files have other owners.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use nacre_tests::{Bundle, Case};
use serde_json::{Value, json};

nacre_tests::tests![
    a_user_namespace,
    an_ordinary_user_in_a_user_namespace,
    owners_mapped_on_a_mount,
    owners_mapped_by_the_containers_mappings,
    without_a_mount_namespace,
];

/// The id outside that the container's id 0 is mapped to.
const FIRST: u32 = 200_000;

fn mappings(first: u32) -> Value {
    json!([{ "containerID": 0, "hostID": first, "size": 65536 }])
}

/// Makes a container in a user namespace, whose files belong to its root, with the right to change
/// owners.
pub(super) fn mapped(case: &Case) -> Bundle {
    let bundle = case
        .busybox()
        .push("/linux/namespaces", json!({ "type": "user" }))
        .set("/linux/uidMappings", mappings(FIRST))
        .set("/linux/gidMappings", mappings(FIRST));
    give(&bundle.rootfs(), FIRST);
    ["bounding", "effective", "permitted"]
        .into_iter()
        .fold(bundle, |bundle, set| {
            let pointer = format!("/process/capabilities/{set}");
            let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"];
            bundle.set(&pointer, json!(capabilities))
        })
}

fn give(path: &Path, id: u32) {
    lchown(path, Some(id), Some(id)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), id);
        }
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn a_user_namespace(case: &Case) {
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    lchown(&data, Some(FIRST + 7), Some(FIRST + 8)).unwrap();
    // The file's owner isn't mapped in the container: the container's root has no rights over it.
    fs::write(data.join("of-the-host"), "x").unwrap();
    let bundle = mapped(case)
        .mount("/data", "bind", data.to_str().unwrap(), &["rbind"])
        .shell(
            "tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map; echo $(id -u; id -g; id -G)
             stat -c '%u %g' /bin /data /data/of-the-host
             touch /made /data/made; chown 5:6 /data/made; chmod 4711 /data/made
             echo x >/dev/null; chown 0:0 /data/of-the-host; chown 70000 /data/made; echo end",
        );
    let outcome = case.run(&bundle);
    assert_eq!(
        outcome.expect(0),
        " 0 200000 65536\n 0 200000 65536\n0 0 0\n0 0\n7 8\n65534 65534\nend\n",
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stderr.lines().count(), 2, "{}", outcome.stderr);
    assert_eq!(owner(&bundle.rootfs().join("made")), (FIRST, FIRST));
    assert_eq!(owner(&data.join("made")), (FIRST + 5, FIRST + 6));
    let mode = fs::metadata(data.join("made")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o4711);
    assert_eq!(owner(&data.join("of-the-host")), (0, 0));
}

fn an_ordinary_user_in_a_user_namespace(case: &Case) {
    let bundle = mapped(case)
        .set(
            "/process/user",
            json!({ "uid": 5, "gid": 6, "additionalGids": [7] }),
        )
        .remove("/process/capabilities")
        .shell("id -u; id -g; id -G; echo 1 >/tmp/made; cat /tmp/group; touch /bin/x; echo $?");
    let root = bundle.rootfs();
    lchown(root.join("tmp"), Some(FIRST + 5), Some(FIRST)).unwrap();
    fs::write(root.join("tmp/group"), "of a group\n").unwrap();
    lchown(root.join("tmp/group"), Some(FIRST), Some(FIRST + 7)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(root.join("tmp/group"), private).unwrap();
    let outcome = case.run(&bundle);
    assert_eq!(outcome.expect(0), "5\n6\n6 7\nof a group\n1\n");
    assert_eq!(owner(&root.join("tmp/made")), (FIRST + 5, FIRST + 6));
}

/// Makes a directory with files of the host's root and of somebody else.
fn data(case: &Case) -> std::path::PathBuf {
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("roots"), "").unwrap();
    fs::write(data.join("others"), "").unwrap();
    lchown(data.join("others"), Some(3), Some(4)).unwrap();
    data
}

fn owners_mapped_on_a_mount(case: &Case) {
    let data = data(case);
    let bundle = case
        .busybox()
        .push(
            "/mounts",
            json!({
                "destination": "/data", "type": "bind", "source": data, "options": ["bind"],
                "uidMappings": mappings(1000), "gidMappings": mappings(2000),
            }),
        )
        .set("/process/user", json!({ "uid": 1009, "gid": 2010 }))
        .shell("stat -c '%u %g' /data/roots /data/others; touch /data/made");
    lchown(&data, Some(9), Some(10)).unwrap();
    assert_eq!(case.run(&bundle).ok(), "1000 2000\n1003 2004\n");
    assert_eq!(owner(&data.join("made")), (9, 10));
}

fn owners_mapped_by_the_containers_mappings(case: &Case) {
    let data = data(case);
    let bundle = mapped(case)
        .mount("/data", "bind", data.to_str().unwrap(), &["rbind,ridmap"])
        .mount("/one", "bind", data.to_str().unwrap(), &["bind", "idmap"])
        .mount("/plain", "bind", data.to_str().unwrap(), &["bind"])
        .shell(
            "stat -c '%u %g' /data/roots /data/others /one/others /plain/others; touch /data/made /data/given
             chown 5:6 /data/given",
        );
    assert_eq!(case.run(&bundle).ok(), "0 0\n3 4\n3 4\n65534 65534\n");
    assert_eq!(owner(&data.join("made")), (0, 0));
    assert_eq!(owner(&data.join("given")), (5, 6));
}

fn without_a_mount_namespace(case: &Case) {
    let bundle = case
        .busybox()
        .set(
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "network" }]),
        )
        .remove("/mounts")
        .remove("/hostname")
        .remove("/linux/maskedPaths")
        .remove("/linux/readonlyPaths")
        .shell("ls -d /bin /usr 2>/dev/null; echo $$");
    assert_eq!(case.run(&bundle).ok(), "/bin\n1\n");
}
