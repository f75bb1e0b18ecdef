//! Devices, and `/dev`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio, text};

tests![
    the_default_devices_are_there,
    devices_are_made_as_asked,
    a_bound_dev_is_left_alone,
    a_device_that_is_exchanged_for_a_link_changes_no_file,
];

/// How many containers are created while links take the places of devices, and for how long more
/// are if none was met.
const TRIES: u32 = 100;
const BOUND: Duration = Duration::from_secs(30);

fn the_default_devices_are_there() -> Result<(), Skipped> {
    let bundle = Bundle::new(
        "cd /dev; stat -c '%n %a %t:%T %u:%g' null zero full random urandom tty;
         for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done;
         echo x > null; head -c 3 zero | wc -c; head -c 3 urandom | wc -c; echo x > full",
    );
    let outcome = bundle.run();
    assert_eq!(
        outcome.stdout,
        "null 666 1:3 0:0\nzero 666 1:5 0:0\nfull 666 1:7 0:0\nrandom 666 1:8 0:0\n\
         urandom 666 1:9 0:0\ntty 666 5:0 0:0\n\
         fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\n\
         ptmx pts/ptmx\n3\n3\n"
    );
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
    Ok(())
}

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
    // It lies in the image now, and it is the right one.
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

/// Another process of a test: puts a link in the place of a file as soon as that is there, again
/// and again.
pub(crate) fn replace(mut words: std::iter::Skip<std::env::Args>) -> ExitCode {
    let [file, target]: [PathBuf; 2] = [words.next().unwrap().into(), words.next().unwrap().into()];
    let link = file.with_extension("link");
    loop {
        symlink(&target, &link).unwrap();
        while fs::symlink_metadata(&file).is_err() {}
        fs::rename(&link, &file).unwrap();
        // For as long as the engine may need to come by.
        for _ in 0..200 {
            std::hint::black_box(fs::symlink_metadata(&file).is_ok());
        }
        fs::remove_file(&file).unwrap();
    }
}

/// The root may be shared with a container that runs.
fn a_device_that_is_exchanged_for_a_link_changes_no_file() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    let outside = bundle.beside("outside");
    fs::write(&outside, "").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    bundle.config["linux"]["devices"] = json!([
        {"path": "/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666, "uid": 7},
    ]);
    let mut replacing = Command::new(std::env::current_exe().unwrap())
        .args(["--replace", text(&bundle.at("zero")), text(&outside)])
        .spawn()
        .unwrap();
    let (begin, mut met, mut tries) = (Instant::now(), 0, 0);
    while tries < TRIES || (met == 0 && begin.elapsed() < BOUND) {
        tries += 1;
        match bundle.create(null_stdio()) {
            Ok(container) => container.destroy().unwrap(),
            Err(error) => met += u32::from(error.to_string().contains("is not the device")),
        }
    }
    assert!(
        replacing.try_wait().unwrap().is_none(),
        "nothing was replaced any more"
    );
    replacing.kill().unwrap();
    replacing.wait().unwrap();
    let found = fs::metadata(&outside).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, 0));
    match met {
        0 => Err(Skipped("no link was ever met, on a machine this busy")),
        _ => Ok(()),
    }
}
