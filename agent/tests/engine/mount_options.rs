//! The options of mounts: flags, propagation, and what is mounted again.

use std::fs;

use nix::mount::MsFlags;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, has, mounted, text};

tests![
    a_bind_mount_keeps_what_its_source_forbids,
    recursive_options_reach_mounts_below,
    every_recursive_option_does_what_it_says,
    propagation_is_set,
    what_is_mounted_can_be_remounted,
    what_is_not_mounted_cannot_be_remounted,
];

const MOUNTINFO: &str = "cat /proc/self/mountinfo";

fn a_bind_mount_keeps_what_its_source_forbids() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(MOUNTINFO);
    let source = bundle.beside("source");
    fs::create_dir(&source).unwrap();
    let flags = MsFlags::MS_NOSUID;
    nix::mount::mount(Some("t"), &source, Some("tmpfs"), flags, None::<&str>).unwrap();
    bundle.mount(json!({"destination": "/a", "source": text(&source), "options": ["bind", "ro"]}));
    bundle
        .mount(json!({"destination": "/b", "source": text(&source), "options": ["bind", "suid"]}));
    let outcome = bundle.run();
    nix::mount::umount(&source).unwrap();
    let output = outcome.stdout;
    let (a, ..) = mounted(&output, "/a");
    assert!(has(&a, "ro") && has(&a, "nosuid"), "{a}");
    assert!(!has(&mounted(&output, "/b").0, "nosuid"));
    Ok(())
}

fn recursive_options_reach_mounts_below() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(MOUNTINFO);
    // /proc has no relevant mounts below it here; /sys always has.
    for (at, options) in [
        ("/plain", json!(["rbind", "ro"])),
        ("/recursive", json!(["rbind", "rro", "rnosuid"])),
        ("/single", json!(["bind"])),
    ] {
        bundle.mount(json!({"destination": at, "source": "/sys", "options": options}));
    }
    let output = bundle.output();
    let below = "fs/cgroup";
    assert!(has(&mounted(&output, "/plain").0, "ro"));
    assert!(has(&mounted(&output, &format!("/plain/{below}")).0, "rw"));
    let (options, ..) = mounted(&output, &format!("/recursive/{below}"));
    assert!(has(&options, "ro") && has(&options, "nosuid"), "{options}");
    assert!(!output.contains(&format!(" /single/{below}")));
    Ok(())
}

fn every_recursive_option_does_what_it_says() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(MOUNTINFO);
    // One mount that allows everything and one that allows nothing, each with a mount below.
    let restricted = MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC
        | MsFlags::MS_NOATIME
        | MsFlags::MS_NODIRATIME;
    let sources = [("free", MsFlags::MS_RELATIME), ("restricted", restricted)];
    for (name, flags) in sources {
        let below = bundle.beside(name).join("below");
        fs::create_dir_all(&below).unwrap();
        nix::mount::mount(Some("t"), &below, Some("tmpfs"), flags, None::<&str>).unwrap();
    }
    let cases = [
        ("rro", "ro", true),
        ("rnosuid", "nosuid", true),
        ("rnodev", "nodev", true),
        ("rnoexec", "noexec", true),
        ("rnosymfollow", "nosymfollow", true),
        ("rnodiratime", "nodiratime", true),
        ("rnoatime", "noatime", true),
        ("rstrictatime", "relatime", false),
        ("rrw", "ro", false),
        ("rsuid", "nosuid", false),
        ("rdev", "nodev", false),
        ("rexec", "noexec", false),
        ("rdiratime", "nodiratime", false),
        ("rrelatime", "relatime", true),
        ("ratime", "noatime", false),
        ("rnostrictatime", "relatime", true),
    ];
    for (index, (option, ..)) in cases.iter().enumerate() {
        let source = if index < 8 { "free" } else { "restricted" };
        bundle.mount(json!({
            "destination": format!("/{option}"), "source": source, "options": ["rbind", option],
        }));
    }
    let outcome = bundle.try_run();
    for (name, _) in sources {
        nix::mount::umount(&bundle.beside(name).join("below")).unwrap();
    }
    let output = outcome.unwrap().stdout;
    for (option, shown, is_there) in cases {
        let (options, ..) = mounted(&output, &format!("/{option}/below"));
        assert_eq!(has(&options, shown), is_there, "{option}: {options}");
    }
    Ok(())
}

fn propagation_is_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(MOUNTINFO);
    for (at, option) in [("/s", "shared"), ("/p", "rprivate"), ("/u", "unbindable")] {
        bundle
            .mount(json!({"destination": at, "type": "tmpfs", "source": "t", "options": [option]}));
    }
    let output = bundle.output();
    let line = |path: &str| {
        let found = output.lines().find(|l| l.split(' ').nth(4) == Some(path));
        found.unwrap().split_once(" - ").unwrap().0.to_owned()
    };
    assert!(line("/s").contains(" shared:"));
    assert!(line("/u").ends_with(" unbindable"));
    assert!(!line("/p").contains("shared:"));

    let mut bundle = Bundle::new(MOUNTINFO);
    for (value, mark) in [
        ("shared", " shared:"),
        ("unbindable", " unbindable"),
        ("private", ""),
    ] {
        bundle.config["linux"]["rootfsPropagation"] = json!(value);
        let output = bundle.output();
        let root = output
            .lines()
            .find(|l| l.split(' ').nth(4) == Some("/"))
            .unwrap();
        let root = root.split_once(" - ").unwrap().0;
        assert!(root.contains(mark), "{value}: {root}");
        assert_eq!(root.contains("shared:"), value == "shared", "{root}");
    }
    Ok(())
}

fn what_is_mounted_can_be_remounted() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(MOUNTINFO);
    fs::create_dir(bundle.beside("data")).unwrap();
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["size=64k"]}),
    );
    bundle.mount(json!({"destination": "/b", "source": "data", "options": ["bind"]}));
    for (at, options) in [
        ("/t", json!(["remount", "ro", "nodev", "size=128k"])),
        ("/b", json!(["bind", "remount", "noexec"])),
        ("/proc", json!(["remount", "nosuid"])),
    ] {
        bundle.mount(json!({"destination": at, "options": options}));
    }
    let output = bundle.output();
    let (options, _, parameters) = mounted(&output, "/t");
    assert!(has(&options, "ro") && has(&options, "nodev"), "{options}");
    assert!(
        has(&parameters, "size=128k") && has(&parameters, "rw"),
        "{parameters}"
    );
    let (options, ..) = mounted(&output, "/b");
    assert!(has(&options, "rw") && has(&options, "noexec"), "{options}");
    assert!(has(&mounted(&output, "/proc").0, "nosuid"));
    // The file system below is shared, and unchanged.
    fs::write(bundle.beside("data/file"), "").unwrap();
    Ok(())
}

fn what_is_not_mounted_cannot_be_remounted() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    for (at, options) in [
        ("/bin", json!(["remount", "ro"])),
        ("/bin", json!(["remount"])),
        ("/bin", json!(["remount", "size=1k"])),
    ] {
        let config = bundle.config.clone();
        bundle.mount(json!({"destination": at, "options": options}));
        let (message, _) = bundle.error();
        let expected = "mounts[7] at /bin: nothing is mounted there that could be remounted";
        assert_eq!(message, expected);
        bundle.config = config;
    }
    bundle.mount(json!({"destination": "/no/such", "options": ["remount"]}));
    let (message, _) = bundle.error();
    assert!(
        message.contains("can't open the destination: No such file"),
        "{message}"
    );
    assert!(!bundle.at("no").exists());
    Ok(())
}
