//! The root file system and mounts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, has, mounted, null_stdio, text, wait_for_exit};

tests![
    a_root_can_be_entered_without_pivot_root,
    the_default_mounts_have_their_options,
    file_systems_take_parameters,
    a_wrong_parameter_is_told,
    a_long_parameter_is_taken,
    a_readonly_tmpfs_can_be_mounted_in,
    directories_and_files_are_bound,
    a_tmpfs_can_begin_with_what_it_covers,
    a_copy_stays_in_its_directory,
    labels_need_selinux,
    a_source_that_is_not_there_is_named,
    paths_are_masked,
    paths_are_made_readonly,
    nothing_is_seen_of_the_host,
];

const MOUNTINFO: &str = "cat /proc/self/mountinfo";

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
    // The caller's mounts, with nothing masked, aren't in this namespace.
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
    // With version 1 there is a mount for each hierarchy, in a tmpfs.
    let cgroup = if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        "cgroup2"
    } else {
        "tmpfs"
    };
    for (path, options, kind) in [
        ("/proc", "rw,relatime", "proc"),
        // The last two are the file system's: strictatime shows as the absence of others.
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

/// fsconfig(2) takes 255 bytes for one. An overlay has all of its layers in one.
fn a_long_parameter_is_taken() -> Result<(), Skipped> {
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap();
    if !file_systems.lines().any(|line| line.ends_with("\toverlay")) {
        return Err(Skipped("this kernel has no overlay"));
    }
    let layers = tempfile::tempdir().unwrap();
    let paths: Vec<String> = (0..4)
        .map(|number| {
            let path = layers.path().join(format!("{number}{}", "x".repeat(200)));
            fs::create_dir(&path).unwrap();
            fs::write(path.join(number.to_string()), "").unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let mount = |paths: &[String]| {
        let mut bundle = Bundle::new("ls /many; touch /many/new; cat /proc/self/mountinfo");
        bundle.mount(json!({
            "destination": "/many", "type": "overlay", "source": "overlay",
            "options": [format!("lowerdir={}", paths.join(":")), "nosuid", "noexec"],
        }));
        bundle.run()
    };
    let outcome = mount(&paths);
    assert!(outcome.stdout.starts_with("0\n1\n2\n3\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    let (options, kind, _) = mounted(&outcome.stdout, "/many");
    assert!(has(&options, "nosuid") && has(&options, "noexec") && !has(&options, "nodev"));
    assert_eq!(kind, "overlay");
    // Nothing is left of the way that it was made.
    let there = outcome
        .stdout
        .lines()
        .filter(|line| line.contains(" /many"));
    assert_eq!(there.count(), 1, "{outcome:?}");
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
    // If the content doesn't fit, that is an error, and no partial copy is kept.
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
    // The destination itself, and its content, may be links that lead out.
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
    // The root, three virtual file systems, four in /dev, one in /sys, and what is masked or
    // read-only.
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
