//! Mounts on which files have other owners.

use std::fs;

use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::Bundle;
use crate::user_namespaces::mapped;

tests![
    owners_are_mapped,
    mapped_owners_need_mappings,
    owners_are_mapped_as_in_the_one_that_is_joined,
];

fn ids(container: u32, host: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": 10}])
}

fn owners_are_mapped() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "stat -c '%n %u %g' /one /one/file /one/below/file /all/file /all/below/file /as/file",
    );
    let data = bundle.beside("data");
    fs::create_dir_all(data.join("below")).unwrap();
    let flags = MsFlags::empty();
    nix::mount::mount(
        Some("t"),
        &data.join("below"),
        Some("tmpfs"),
        flags,
        None::<&str>,
    )
    .unwrap();
    for file in ["", "file", "below/file"] {
        if !file.is_empty() {
            fs::write(data.join(file), "").unwrap();
        }
        std::os::unix::fs::chown(data.join(file), Some(1001), Some(1002)).unwrap();
    }
    for (at, options) in [
        ("/one", json!(["rbind", "idmap"])),
        ("/all", json!(["rbind", "ridmap"])),
    ] {
        bundle.mount(json!({
            "destination": at, "source": "data", "options": options,
            "uidMappings": ids(1000, 5000), "gidMappings": ids(1000, 0),
        }));
    }
    // The mappings are enough without an option.
    bundle.mount(json!({
        "destination": "/as", "type": "bind", "source": "data", "options": ["ro"],
        "uidMappings": ids(1000, 5000), "gidMappings": ids(1000, 0),
    }));
    let outcome = bundle.try_run();
    nix::mount::umount(&data.join("below")).unwrap();
    let expected = "/one 5001 2\n/one/file 5001 2\n/one/below/file 1001 1002\n\
                    /all/file 5001 2\n/all/below/file 5001 2\n/as/file 5001 2\n";
    match outcome {
        Ok(outcome) => assert_eq!(outcome.stdout, expected, "{outcome:?}"),
        Err(error) if error.contains("may not allow it") => {
            return Err(Skipped("a file system here has no mapped owners"));
        }
        Err(error) => panic!("{error}"),
    }
    Ok(())
}

fn mapped_owners_need_mappings() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    bundle.mount(json!({"destination": "/data", "source": "/", "options": ["bind", "idmap"]}));
    let (message, _) = bundle.error();
    assert!(
        message.starts_with("mounts[7].options: ids can be mapped only by"),
        "{message}"
    );
    // proc doesn't support mapped ids.
    let mount = bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .last_mut()
        .unwrap();
    *mount = json!({
        "destination": "/data", "source": "/proc/fs", "options": ["bind", "idmap"],
        "uidMappings": ids(0, 5000), "gidMappings": ids(0, 5000),
    });
    let (message, _) = bundle.error();
    let expected = "can't map the ids of mounts[7], whose file system may not allow it";
    assert!(message.starts_with(expected), "{message}");
    Ok(())
}

fn owners_are_mapped_as_in_the_one_that_is_joined() -> Result<(), Skipped> {
    let host = mapped("echo .; sleep 60");
    let mut running = host.start();
    running.wait_for(".\n");
    let path = format!("/proc/{}/ns/user", running.container().pid());
    let mut guest = mapped("stat -c '%u %g' /data/file");
    guest.namespace(json!({"type": "user", "path": path}));
    guest.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    guest.config["linux"]["gidMappings"] = json!([]);
    let data = guest.beside("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(1001), Some(1002)).unwrap();
    guest.mount(json!({"destination": "/data", "source": "data", "options": ["bind", "idmap"]}));
    match guest.try_run() {
        Ok(outcome) => assert_eq!(outcome.stdout, "1001 1002\n", "{outcome:?}"),
        Err(error) if error.contains("may not allow it") => {
            return Err(Skipped("the file system here has no mapped owners"));
        }
        Err(error) => panic!("{error}"),
    }
    Ok(())
}
