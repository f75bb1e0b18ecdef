//! The root file system and mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, has, mounted, null_stdio, text, wait_for_exit};
use crate::user_namespaces::mapped as in_user_namespace;

tests![
    the_root_is_the_bundles,
    a_readonly_root_is,
    a_root_can_be_entered_without_pivot_root,
    the_default_mounts_have_their_options,
    file_systems_take_parameters,
    a_wrong_parameter_is_told,
    a_readonly_tmpfs_can_be_mounted_in,
    directories_and_files_are_bound,
    a_bind_mount_keeps_what_its_source_forbids,
    recursive_options_reach_mounts_below,
    every_recursive_option_does_what_it_says,
    propagation_is_set,
    what_is_mounted_can_be_remounted,
    what_is_not_mounted_cannot_be_remounted,
    a_tmpfs_can_begin_with_what_it_covers,
    a_copy_stays_in_its_directory,
    labels_need_selinux,
    owners_are_mapped,
    owners_are_mapped_as_the_containers_ids_are,
    mapped_owners_need_mappings,
    a_source_that_is_not_there_is_named,
    paths_are_masked,
    paths_are_made_readonly,
    nothing_is_seen_of_the_host,
];

const MOUNTINFO: &str = "cat /proc/self/mountinfo";

fn the_root_is_the_bundles() -> Result<(), Skipped> {
    let bundle = Bundle::new("ls / && echo new > /file");
    assert_eq!(bundle.output(), "bin\ndev\nproc\nsys\n");
    assert_eq!(fs::read_to_string(bundle.at("file")).unwrap(), "new\n");
    Ok(())
}

fn a_readonly_root_is() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/mountinfo; touch /file");
    bundle.config["root"]["readonly"] = json!(true);
    let outcome = bundle.run();
    assert_ne!(outcome.status, 0);
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    assert!(has(&mounted(&outcome.stdout, "/").0, "ro"));
    assert!(has(&mounted(&outcome.stdout, "/dev/shm").0, "rw"));
    Ok(())
}

fn a_root_can_be_entered_without_pivot_root() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("ls /; pwd; cat /proc/self/mountinfo; touch /file");
    bundle.config["root"]["readonly"] = json!(true);
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut stdio = null_stdio();
    stdio.stdout = writer;
    let mut container = bundle
        .create_with(stdio, |options| options.no_pivot = true)
        .unwrap();
    container.start().unwrap();
    let output = std::io::read_to_string(fs::File::from(reader)).unwrap();
    assert_ne!(wait_for_exit(&container), 0);
    container.destroy().unwrap();
    assert!(output.starts_with("bin\ndev\nproc\nsys\n/\n"), "{output}");
    assert!(has(&mounted(&output, "/").0, "ro"));
    // The caller's, with nothing masked, are out of this namespace.
    let whole = |kind: &str| {
        let kind = format!(" - {kind} ");
        let lines = output.lines().filter(|l| l.contains(&kind));
        lines.filter(|l| l.split(' ').nth(3) == Some("/")).count()
    };
    assert_eq!((whole("proc"), whole("sysfs")), (1, 1), "{output}");
    Ok(())
}

fn the_default_mounts_have_their_options() -> Result<(), Skipped> {
    let output = Bundle::new(MOUNTINFO).output();
    // Version 1 has a mount for each hierarchy, in a tmpfs.
    let cgroup = match fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        true => "cgroup2",
        false => "tmpfs",
    };
    for (path, options, kind) in [
        ("/proc", "rw,relatime", "proc"),
        // The last two words are of the file system: strictatime is the absence of others.
        ("/dev", "rw,nosuid", "tmpfs"),
        ("/dev/pts", "rw,nosuid,noexec,relatime", "devpts"),
        ("/dev/shm", "rw,nosuid,nodev,noexec,relatime", "tmpfs"),
        ("/dev/mqueue", "rw,nosuid,nodev,noexec,relatime", "mqueue"),
        ("/sys", "ro,nosuid,nodev,noexec,relatime", "sysfs"),
        ("/sys/fs/cgroup", "ro,nosuid,nodev,noexec,relatime", cgroup),
    ] {
        let found = mounted(&output, path);
        assert_eq!(
            (found.0.as_str(), found.1.as_str()),
            (options, kind),
            "{path}"
        );
    }
    let devpts = mounted(&output, "/dev/pts").2;
    for option in ["gid=5", "mode=620", "ptmxmode=666"] {
        assert!(has(&devpts, option), "{devpts}");
    }
    assert!(has(&mounted(&output, "/dev").2, "size=65536k"));
    Ok(())
}

fn file_systems_take_parameters() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cat /proc/self/mountinfo; stat -c '%a %u' /kept /given; dd if=/dev/zero of=/given/x bs=1k count=65",
    );
    fs::create_dir(bundle.at("kept")).unwrap();
    fs::set_permissions(bundle.at("kept"), fs::Permissions::from_mode(0o1750)).unwrap();
    bundle.mount(json!({"destination": "/kept", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({
        "destination": "/given", "type": "tmpfs", "source": "named",
        "options": ["noatime", "size=64k,mode=0777", "uid=7"],
    }));
    let outcome = bundle.run();
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
    assert!(outcome.stdout.contains("1750 0\n777 7\n"), "{outcome:?}");
    let (options, _, parameters) = mounted(&outcome.stdout, "/given");
    assert_eq!(options, "rw,noatime");
    assert!(has(&parameters, "size=64k"));
    Ok(())
}

fn a_wrong_parameter_is_told() -> Result<(), Skipped> {
    for (kind, option, words) in [
        ("tmpfs", "size=lots", "size"),
        ("tmpfs", "colour=red", "colour"),
        ("nofs", "x", "the kernel has no such file system"),
    ] {
        let mut bundle = Bundle::new("true");
        bundle.mount(json!({"destination": "/x", "type": kind, "options": [option]}));
        let (message, _) = bundle.error();
        assert!(
            message.starts_with(&format!("mounts[7] at /x: {kind}: ")),
            "{message}"
        );
        assert!(message.contains(words), "{message}");
    }
    Ok(())
}

fn a_readonly_tmpfs_can_be_mounted_in() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/mountinfo; touch /t/file");
    let tmpfs = json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro"]});
    bundle.mount(tmpfs);
    bundle.mount(json!({"destination": "/t/a/b", "type": "tmpfs", "source": "t"}));
    let outcome = bundle.run();
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    assert!(has(&mounted(&outcome.stdout, "/t").0, "ro"));
    assert!(has(&mounted(&outcome.stdout, "/t/a/b").0, "rw"));
    Ok(())
}

fn directories_and_files_are_bound() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cat /d/file /etc/one; echo more >> /d/file; echo more >> /etc/one; cat /proc/self/mountinfo",
    );
    fs::create_dir(bundle.beside("data")).unwrap();
    fs::write(bundle.beside("data/file"), "directory\n").unwrap();
    fs::write(bundle.beside("one"), "file\n").unwrap();
    bundle.mount(json!({"destination": "/d", "source": "data", "options": ["bind"]}));
    bundle.mount(json!({
        "destination": "/etc/one", "type": "bind", "source": text(&bundle.beside("one")),
        "options": ["rbind", "ro", "nodev"],
    }));
    let outcome = bundle.run();
    assert!(
        outcome.stdout.starts_with("directory\nfile\n"),
        "{outcome:?}"
    );
    assert!(
        outcome.stderr.contains("/etc/one: Read-only file system"),
        "{outcome:?}"
    );
    let (options, ..) = mounted(&outcome.stdout, "/etc/one");
    assert!(has(&options, "ro") && has(&options, "nodev"), "{options}");
    assert_eq!(
        fs::read_to_string(bundle.beside("data/file")).unwrap(),
        "directory\nmore\n"
    );
    assert_eq!(fs::read_to_string(bundle.beside("one")).unwrap(), "file\n");
    assert!(bundle.at("etc/one").is_file() && bundle.at("d").is_dir());
    Ok(())
}

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
    // /proc has no mounts below it here that matter, /sys always has.
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
    // One that may all and one that may nothing, each with a mount below.
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
    // The file system below is everyone's, and still as it was.
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

fn a_tmpfs_can_begin_with_what_it_covers() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cat /run/a/file; stat -c '%a %u %g' /run /run/a /run/a/file; readlink /run/link;
         echo more >> /run/a/file && touch /run/new; cat /ro/file; touch /ro/x",
    );
    fs::create_dir_all(bundle.at("run/a")).unwrap();
    fs::create_dir(bundle.at("ro")).unwrap();
    for file in ["run/a/file", "ro/file"] {
        fs::write(bundle.at(file), "image's\n").unwrap();
    }
    for (path, mode) in [("run", 0o1775), ("run/a", 0o750), ("run/a/file", 0o640)] {
        fs::set_permissions(bundle.at(path), fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(bundle.at(path), Some(0), Some(7)).unwrap();
    }
    symlink("/etc/passwd", bundle.at("run/link")).unwrap();
    for (at, options) in [
        ("/run", json!(["tmpcopyup"])),
        ("/ro", json!(["tmpcopyup", "ro"])),
    ] {
        bundle
            .mount(json!({"destination": at, "type": "tmpfs", "source": "t", "options": options}));
    }
    let outcome = bundle.run();
    assert_eq!(
        outcome.stdout,
        "image's\n1775 0 0\n750 0 7\n640 0 7\n/etc/passwd\nimage's\n"
    );
    assert!(
        outcome.stderr.contains("/ro/x: Read-only file system"),
        "{outcome:?}"
    );
    assert_eq!(
        fs::read_to_string(bundle.at("run/a/file")).unwrap(),
        "image's\n"
    );
    assert!(!bundle.at("run/new").exists());
    // What doesn't fit is an error, and not half a copy.
    fs::write(bundle.at("run/large"), vec![1; 1 << 20]).unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts[7]["options"] = json!(["tmpcopyup", "size=64k"]);
    let (message, _) = bundle.error();
    let expected = "mounts[7] at /run: can't copy what is in the directory: No space left";
    assert!(message.starts_with(expected), "{message}");
    Ok(())
}

fn a_copy_stays_in_its_directory() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("ls -A /link /down; ls -A /down/dir /down/mounted");
    fs::create_dir(bundle.beside("outside")).unwrap();
    fs::write(bundle.beside("outside/secret"), "").unwrap();
    for directory in ["down/mounted", "inside"] {
        fs::create_dir_all(bundle.at(directory)).unwrap();
    }
    // The destination itself, and what is in it, may be links that lead out.
    symlink(bundle.beside("outside"), bundle.at("link")).unwrap();
    symlink(bundle.beside("outside"), bundle.at("down/dir")).unwrap();
    bundle.mount(json!({"destination": "/down/mounted", "source": "outside", "options": ["bind"]}));
    for at in ["/link", "/down"] {
        bundle.mount(json!({
            "destination": at, "type": "tmpfs", "source": "t", "options": ["tmpcopyup"],
        }));
    }
    let outcome = bundle.run();
    assert!(!outcome.stdout.contains("secret"), "{outcome:?}");
    assert!(outcome.stdout.contains("/down:\ndir\n"), "{outcome:?}");
    Ok(())
}

fn labels_need_selinux() -> Result<(), Skipped> {
    if fs::exists("/sys/fs/selinux/enforce").unwrap() {
        return Err(Skipped("SELinux is enabled"));
    }
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
    let (message, _) = bundle.error();
    assert_eq!(
        message,
        "linux.mountLabel: SELinux isn't enabled on this kernel"
    );
    Ok(())
}

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
    // The mappings alone will do.
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

fn owners_are_mapped_as_the_containers_ids_are() -> Result<(), Skipped> {
    let mut bundle = in_user_namespace("stat -c '%u %g' /data/file /plain/file; touch /data/new");
    let data = bundle.beside("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(1001), Some(1002)).unwrap();
    bundle.mount(json!({"destination": "/data", "source": "data", "options": ["bind", "idmap"]}));
    bundle.mount(json!({"destination": "/plain", "source": "data", "options": ["bind"]}));
    match bundle.try_run() {
        Ok(outcome) => assert_eq!(outcome.stdout, "1001 1002\n65534 65534\n", "{outcome:?}"),
        Err(error) if error.contains("may not allow it") => {
            return Err(Skipped("the file system here has no mapped owners"));
        }
        Err(error) => panic!("{error}"),
    }
    // What the container's root makes is root's.
    assert_eq!(fs::metadata(data.join("new")).unwrap().uid(), 0);
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
    // proc has none.
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

fn a_source_that_is_not_there_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    bundle.mount(json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}));
    let (message, _) = bundle.error();
    let expected = "mounts[7] at /x: can't bind /no/such: No such file or directory";
    assert!(message.starts_with(expected), "{message}");
    Ok(())
}

fn paths_are_masked() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cat /secret/key /secrets/file /link; ls /secrets /other; touch /secrets/x; stat -c %F /secret/key",
    );
    for directory in ["secret", "secrets", "other"] {
        fs::create_dir(bundle.at(directory)).unwrap();
    }
    fs::write(bundle.at("secret/key"), "secret\n").unwrap();
    fs::write(bundle.at("secrets/file"), "secret\n").unwrap();
    fs::write(bundle.at("other/file"), "secret\n").unwrap();
    symlink("/secret/key", bundle.at("link")).unwrap();
    bundle.config["linux"]["maskedPaths"] = json!([
        "/secrets",
        "/link",
        "/other/.",
        "/no/such",
        "/secret/key/below"
    ]);
    let outcome = bundle.run();
    assert!(!outcome.stdout.contains("secret\n"), "{outcome:?}");
    assert!(
        outcome.stdout.contains("character special file"),
        "{outcome:?}"
    );
    assert!(
        outcome.stderr.contains("/secrets/x: Read-only file system"),
        "{outcome:?}"
    );
    Ok(())
}

fn paths_are_made_readonly() -> Result<(), Skipped> {
    let mut bundle =
        Bundle::new("echo x > /proc/sys/net/ipv4/ip_forward; touch /kept/x /free/x; ls /free");
    bundle.all_capabilities();
    fs::create_dir(bundle.at("kept")).unwrap();
    fs::create_dir(bundle.at("free")).unwrap();
    let paths = json!(["/proc/sys", "/kept", "/no/such"]);
    bundle.config["linux"]["readonlyPaths"] = paths;
    let outcome = bundle.run();
    assert!(
        outcome.stderr.contains("ip_forward: Read-only file system"),
        "{outcome:?}"
    );
    assert!(
        outcome.stderr.contains("/kept/x: Read-only file system"),
        "{outcome:?}"
    );
    assert_eq!(outcome.stdout, "x\n");
    Ok(())
}

fn nothing_is_seen_of_the_host() -> Result<(), Skipped> {
    let bundle =
        Bundle::new("cat /proc/self/mountinfo; ls -d /proc/self/root/..; cat /proc/1/root/work");
    let outcome = bundle.run();
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ids: Vec<&str> = host.lines().filter_map(|l| l.split(' ').next()).collect();
    for line in outcome.stdout.lines().filter(|l| l.contains(" - ")) {
        assert!(!ids.contains(&line.split(' ').next().unwrap()), "{line}");
    }
    // The root, three virtual ones, four in /dev, one in /sys, and what is masked or read-only.
    let paths: Vec<&str> = outcome
        .stdout
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .collect();
    for path in paths {
        let known = ["/proc", "/dev", "/sys"]
            .iter()
            .any(|p| path.starts_with(p));
        assert!(known || path == "/", "{path}");
    }
    Ok(())
}
