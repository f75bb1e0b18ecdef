//! Mount trees: what is mounted on the host in a container's root and in the sources of its bind
//! mounts.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nacre_tests::Case;
use nacre_tests::mounts::Mounts;
use nix::mount::MsFlags;

nacre_tests::tests![
    mounts_below_are_there_from_the_start,
    each_mount_has_its_own_flags,
    access_times_are_kept_as_asked,
    an_overlay_is_over_the_hosts_directories,
];

/// Makes a tree of three mounts and a file that is a mount.
fn tree(case: &Case, top: &Path) -> Mounts {
    let mut mounts = Mounts::default();
    mounts.mount_with("tmpfs", top, MsFlags::MS_NOSUID);
    fs::create_dir(top.join("inner")).unwrap();
    fs::write(top.join("inner/covered"), "").unwrap();
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NODIRATIME;
    mounts.mount_with("tmpfs", &top.join("inner"), flags);
    let program = top.join("inner/program");
    fs::write(&program, "#!/bin/sh\necho ran $0\n").unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let deep = top.join("inner/deep down");
    mounts.mount_with("tmpfs", &deep, MsFlags::MS_NOATIME);
    fs::write(deep.join("file"), "deep down\n").unwrap();
    let file = case.directory().join("file");
    fs::write(&file, "a file\n").unwrap();
    mounts.bind(&file, &top.join("file"));
    mounts
}

/// Prints the mount points that begin with `/` and one of `names`, and their flags.
fn list(names: &str) -> String {
    format!("grep -E ' /({names})[/ ]' /proc/self/mountinfo | cut -d ' ' -f 5,6 | sort")
}

fn mounts_below_are_there_from_the_start(case: &Case) {
    let source = case.directory().join("source");
    let _tree = tree(case, &source);
    let bundle = case
        .busybox()
        .set("/root/readonly", true)
        .mount("/data", "bind", source.to_str().unwrap(), &["rbind"])
        .mount("/one", "bind", source.to_str().unwrap(), &["bind"])
        .mount("/copy", "tmpfs", "tmpfs", &[])
        .shell(&format!(
            "{}
             stat -c %d / /below /data /data/inner '/data/inner/deep down' | sort -u | wc -l
             find /data -xdev -type d
             cp -a /data /copy && find /copy -type f | sort
             cat /data/file; ls /one/inner; touch /new; touch /below/new && echo written",
            list("data|one|below")
        ));
    let mut below = Mounts::default();
    below.mount("tmpfs", &bundle.rootfs().join("below"));
    let outcome = case.run(&bundle);
    let deep = "/data/inner/deep\\040down";
    let expected = format!(
        "/below rw,relatime\n/data rw,nosuid,relatime\n/data/file rw,relatime\n\
         /data/inner rw,nodev,nodiratime,relatime\n{deep} rw,noatime\n/one rw,nosuid,relatime\n\
         5\n/data\n/data/inner\n\
         /copy/data/file\n/copy/data/inner/deep down/file\n/copy/data/inner/program\n\
         a file\ncovered\nwritten\n"
    );
    assert_eq!(outcome.text(), expected, "{outcome:?}");
    assert!(bundle.rootfs().join("below/new").exists());
}

fn each_mount_has_its_own_flags(case: &Case) {
    let source = case.directory().join("source");
    let _tree = tree(case, &source);
    let mut bundle = case.busybox();
    for (name, options) in [
        ("/ro", &["rbind", "ro", "noexec"][..]),
        ("/rro", &["rbind", "rro"]),
        ("/mixed", &["rbind", "rnoexec", "exec", "rsuid"]),
    ] {
        bundle = bundle.mount(name, "bind", source.to_str().unwrap(), options);
    }
    let bundle = bundle.shell(&format!(
        "{}
         for d in ro rro mixed; do
             touch /$d/$d /$d/inner/$d 2>/dev/null; /$d/inner/program 2>/dev/null
         done
         ls /mixed /mixed/inner",
        list("ro|rro|mixed")
    ));
    let outcome = case.run(&bundle);
    let deep = "inner/deep\\040down";
    let expected = format!(
        "/mixed rw,relatime\n/mixed/file rw,noexec,relatime\n\
         /mixed/inner rw,nodev,noexec,nodiratime,relatime\n/mixed/{deep} rw,noexec,noatime\n\
         /ro ro,nosuid,noexec,relatime\n/ro/file rw,relatime\n\
         /ro/inner rw,nodev,nodiratime,relatime\n/ro/{deep} rw,noatime\n\
         /rro ro,nosuid,relatime\n/rro/file ro,relatime\n\
         /rro/inner ro,nodev,nodiratime,relatime\n/rro/{deep} ro,noatime\n\
         ran /ro/inner/program\nran /rro/inner/program\n\
         /mixed:\nfile\ninner\nmixed\n\n/mixed/inner:\ndeep down\nmixed\nprogram\nro\n"
    );
    assert_eq!(outcome.text(), expected, "{outcome:?}");
}

fn access_times_are_kept_as_asked(case: &Case) {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let mut bundle = case.busybox();
    let mut script = String::new();
    let cases = [
        ("relatime", ["", "old"].as_slice()),
        ("noatime", &[]),
        ("nodiratime", &["old"]),
        ("strictatime", &["", "old", "new"]),
    ];
    for (option, _) in cases {
        let source = case.directory().join(option);
        fs::create_dir(&source).unwrap();
        for (name, accessed) in [("new", now + hour), ("old", now - hour), ("", now - hour)] {
            let path = source.join(name);
            if !name.is_empty() {
                fs::write(&path, "text").unwrap();
            }
            let times = FileTimes::new().set_accessed(accessed);
            File::open(path).unwrap().set_times(times).unwrap();
        }
        let destination = format!("/{option}");
        let options = ["rbind", option];
        bundle = bundle.mount(&destination, "bind", source.to_str().unwrap(), &options);
        script += &format!("ls {destination} && cat {destination}/*;");
    }
    case.run(&bundle.shell(&script)).ok();
    for (option, expected) in cases {
        let is_touched = |name: &&str| {
            let path = case.directory().join(option).join(name);
            let accessed = fs::metadata(path).unwrap().accessed().unwrap();
            accessed > now - hour / 2 && accessed < now + hour / 2
        };
        let touched: Vec<&str> = ["", "old", "new"].into_iter().filter(is_touched).collect();
        assert_eq!(touched, expected, "{option}");
    }
}

fn an_overlay_is_over_the_hosts_directories(case: &Case) {
    let layers = case.directory().join("layers");
    let mut mounts = Mounts::default();
    // An overlay can't be the upper layer of another, and this directory may be on one.
    mounts.mount("tmpfs", &layers);
    for name in ["lower:1", "lower2", "upper", "work"] {
        fs::create_dir(layers.join(name)).unwrap();
        fs::write(layers.join(name).join(name), name).unwrap();
    }
    fs::remove_file(layers.join("work/work")).unwrap();
    let place = layers.display();
    let lower = format!("lowerdir={place}/lower\\:1:{place}/lower2");
    let (upper, work) = (
        format!("upperdir={place}/upper"),
        format!("workdir={place}/work"),
    );
    let bundle = case
        .busybox()
        .mount(
            "/both",
            "overlay",
            "overlay",
            &[&lower, &upper, &work, "noexec"],
        )
        .mount("/lower", "overlay", "overlay", &[&lower, "ro"])
        .shell(&format!(
            "{}; ls /both; rm /both/lower2 && echo new >/both/new; touch /lower/new; ls /lower",
            list("both|lower")
        ));
    let outcome = case.run(&bundle);
    let expected = "/both rw,noexec,relatime\n/lower ro,relatime\nlower2\nlower:1\nupper\n\
                    lower2\nlower:1\n";
    assert_eq!(outcome.text(), expected, "{outcome:?}");
    assert_eq!(
        fs::read_to_string(layers.join("upper/new")).unwrap(),
        "new\n"
    );
    assert!(layers.join("lower2/lower2").exists());
}
