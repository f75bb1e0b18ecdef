//! Devices, and `/dev`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nacre_agent::container::describe;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio};
use crate::traced;

tests![
    devices_are_made_as_asked,
    a_bound_dev_is_left_alone,
    a_device_that_is_exchanged_for_a_link_changes_no_file,
];

/// How many of the system calls after a device's making are tried: more than belong to it.
const CALLS: u32 = 12;

fn devices_are_made_as_asked() -> Result<(), Skipped> {
    let mut bundle =
        Bundle::new("stat -c '%n %F %a %t:%T %u:%g' /dev/a/fuse /loop /dev/pipe /dev/null");
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/a/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/loop", "type": "b", "major": 7, "minor": 300},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o444},
    ]);
    assert_eq!(
        bundle.output(),
        "/dev/a/fuse character special file 640 a:e5 7:8\n\
         /loop block special file 666 7:12c 0:0\n\
         /dev/pipe fifo 600 0:0 0:0\n\
         /dev/null character special file 444 1:3 0:0\n"
    );
    // It is in the image from then on, and is the right device.
    bundle.output();
    bundle.config["linux"]["devices"][1]["minor"] = json!(1);
    let (message, _) = bundle.error();
    assert!(message.contains("\"/loop\" is there already"), "{message}");
    Ok(())
}

fn a_bound_dev_is_left_alone() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("ls /dev");
    fs::create_dir(bundle.beside("dev")).unwrap();
    fs::write(bundle.beside("dev/mine"), "").unwrap();
    bundle.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev/", "type": "bind", "source": "dev", "options": ["rbind"]},
    ]);
    assert_eq!(bundle.output(), "mine\n");
    assert_eq!(fs::read_dir(bundle.beside("dev")).unwrap().count(), 1);
    Ok(())
}

/// The root may be shared with a container that runs, which replaces the device by a link: right
/// before each of the system calls that come after the one that makes it.
fn a_device_that_is_exchanged_for_a_link_changes_no_file() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let outside = bundle.beside("outside");
    fs::write(&outside, "").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    bundle.config["linux"]["devices"] = json!([
        {"path": "/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 7},
    ]);
    let [device, link, refused] = ["zero", "link", "refused"].map(|name| bundle.at(name));
    let mut refusals = 0;
    for later in 0..CALLS {
        symlink(&outside, &link).unwrap();
        let create = || match bundle.create(null_stdio()) {
            Ok(container) => container.destroy().unwrap(),
            Err(error) => fs::write(&refused, describe(&error)).unwrap(),
        };
        let mut calls = 0;
        traced::run(create, |_| {
            if fs::symlink_metadata(&device).is_ok() {
                if calls == later {
                    fs::rename(&link, &device).unwrap();
                }
                calls += 1;
            }
        });
        assert!(calls > later, "there were only {calls} calls");
        if let Ok(error) = fs::read_to_string(&refused) {
            assert!(error.contains("is not the device"), "{error}");
            fs::remove_file(&refused).unwrap();
            refusals += 1;
        }
        fs::remove_file(&device).unwrap();
        let found = fs::metadata(&outside).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, 0), "{later}");
    }
    assert!(refusals > 0, "no link was ever met");
    Ok(())
}
