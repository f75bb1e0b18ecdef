//! Files as programs use them, in the root and in a volume, and what the host sees of them.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use nacre_tests::{Bundle, Case, Isolation, fixtures};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::json;

nacre_tests::tests![
    what_programs_rely_on,
    what_a_vm_has_no_request_for: Vm,
    the_host_and_the_container_see_each_others_changes,
    both_sides_write_through_mappings,
    a_disk_made_of_a_file_is_kept: Vm,
    a_volume_outlives_its_containers,
    a_large_directory,
    more_files_than_the_host_keeps_open_for_a_guest,
    a_full_disk,
    a_directory_that_shrinks_as_it_is_listed,
    the_end_waits_for_nobodys_dirty_pages,
];

/// Compiles a program of ours, statically, in the Debian root. Returns the directory that contains
/// it, to be bind-mounted.
pub(super) fn compile(case: &Case, name: &str, source: &str) -> PathBuf {
    let root = fixtures::debian().unwrap_or_else(|why| case.ignore(why));
    let directory = case.directory().join("program");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("program.c"), source).unwrap();
    let mut command = case.mark(Command::new("unshare"));
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(
            "mount -t tmpfs tmpfs \"$0/tmp\"; mount --bind \"$1\" \"$0/srv\"; cd /
             exec env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin chroot \"$0\" \
             gcc -O1 -Wall -static -o \"/srv/$2\" /srv/program.c",
        )
        .arg(root)
        .arg(&directory)
        .arg(name);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    directory
}

fn bind(bundle: Bundle, destination: &str, source: &Path) -> Bundle {
    bundle.mount(destination, "bind", source.to_str().unwrap(), &["rbind"])
}

/// Makes a busybox bundle that may do with files what root may.
pub(super) fn privileged(case: &Case) -> Bundle {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_MKNOD",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_ADMIN",
    ]);
    ["bounding", "effective", "permitted"]
        .into_iter()
        .fold(case.busybox(), |bundle, set| {
            bundle.set(
                &format!("/process/capabilities/{set}"),
                capabilities.clone(),
            )
        })
}

/// Waits until the host sees a change.
#[track_caller]
fn wait_for(what: &str, seen: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !seen() {
        assert!(Instant::now() < end, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn what_programs_rely_on(case: &Case) {
    let program = compile(case, "posix", include_str!("files/posix.c"));
    let volume = case.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    let bundle = bind(privileged(case), "/program", &program);
    let bundle = bind(bundle, "/volume", &volume)
        .shell("for d in /work /volume; do mkdir -p $d; cd $d; /program/posix; done");
    let output = case.run(&bundle).ok();
    // docs/vm-differences.md says why a VM has none on what is mounted.
    let unsupported = match case.isolation() {
        Isolation::Process => 0,
        Isolation::Vm => 1,
    };
    let lists = "not supported; access lists: ok\n";
    assert_eq!(output.matches(lists).count(), unsupported, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 42, "{output}");
    assert!(lines.iter().all(|line| line.ends_with(": ok")), "{output}");
}

/// docs/vm-differences.md lists these. Where there is an alternative, it is used.
fn what_a_vm_has_no_request_for(case: &Case) {
    let root = fixtures::debian().unwrap_or_else(|why| case.ignore(why));
    let volume = case.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    let bundle = bind(Bundle::read_only(case.directory(), root), "/srv", &volume).args([
        "/bin/bash",
        "-c",
        "cd /srv; head -c 64k /dev/zero >a
         lsattr a; chattr +d a; cp --reflink=always a b
         fallocate -c -o 0 -l 4k a; fallocate -i -o 0 -l 4k a; cp --reflink=auto a c; cmp a c",
    ]);
    let outcome = case.run(&bundle);
    outcome.expect(0);
    let refused = outcome.stderr.matches("Operation not supported").count();
    assert_eq!(refused, 5, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 5, "{}", outcome.stderr);
}

fn the_host_and_the_container_see_each_others_changes(case: &Case) {
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("log"), "").unwrap();
    let bundle = bind(privileged(case), "/data", &data).shell(
        "cd /data
         wait_for() { i=0; until eval \"$1\"; do i=$((i+1)); [ $i -lt 400 ] || exit 1; sleep 0.05; done; }
         exec 5>>log; echo container >&5
         wait_for '[ $(wc -l <log) = 2 ]'; echo container again >&5; cat log
         echo made >made; chown 3:4 made; chmod 4751 made; ln made linked; ln -s made pointer
         wait_for '[ -e theirs ]'; stat -c '%u %g %a %h %Y' theirs; cat theirs
         exec 6<theirs; mv made done
         wait_for '[ ! -e theirs ]'; cat <&6
         wait_for '[ -e renamed ]'; cat renamed; ls",
    );
    let running = case.start(&bundle);
    let log = data.join("log");
    wait_for("log", || fs::read_to_string(&log).unwrap() == "container\n");
    let mut appending = fs::OpenOptions::new().append(true).open(&log).unwrap();
    appending.write_all(b"host\n").unwrap();
    wait_for("made", || data.join("pointer").is_symlink());
    let made = fs::metadata(data.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.nlink()), (3, 4, 2));
    assert_eq!(made.mode() & 0o7777, 0o4751);
    assert_eq!(fs::read_to_string(data.join("linked")).unwrap(), "made\n");

    let new = data.join("new");
    fs::write(&new, "of the host\n").unwrap();
    std::os::unix::fs::chown(&new, Some(5), Some(6)).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o640)).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(&new).unwrap();
    file.set_modified(time).unwrap();
    fs::rename(&new, data.join("theirs")).unwrap();
    wait_for("done", || data.join("done").exists());
    fs::rename(data.join("theirs"), data.join("renamed")).unwrap();
    assert_eq!(
        running.finish().ok(),
        "container\nhost\ncontainer again\n5 6 640 1 1000000000\nof the host\nof the host\n\
         of the host\ndone\nlinked\nlog\npointer\nrenamed\n"
    );
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "container\nhost\ncontainer again\n"
    );
}

fn both_sides_write_through_mappings(case: &Case) {
    let program = compile(case, "mapping", include_str!("files/mapping.c"));
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("mapped"), [b'.'; 4096]).unwrap();
    let bundle = bind(case.busybox(), "/program", &program);
    let bundle = bind(bundle, "/data", &data).shell("cd /data; exec /program/mapping");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(data.join("mapped"))
        .unwrap();
    let holds = |text: &[u8; 9]| {
        let mut found = [0; 9];
        file.read_exact_at(&mut found, 0).unwrap();
        found == *text
    };
    let mut running = case.start(&bundle);
    wait_for("container", || holds(b"container"));
    file.write_all_at(b"the host ", 0).unwrap();
    running.wait_for_line("again");
    // What a process has written is kept, no matter how the process ends.
    case.command(&["kill", case.id(), "KILL"]).ok();
    running.finish().expect(137);
    assert!(holds(b"container"));
}

/// A file system on a loop device that the workload leaves mounted.
fn a_disk_made_of_a_file_is_kept(case: &Case) {
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    let all = json!([{ "allow": true, "access": "rwm" }]);
    let bundle = bind(privileged(case), "/data", &data)
        .set("/linux/resources/devices", all)
        .set("/linux/rootfsPropagation", "shared")
        .shell(
            "mkdir /mnt; mknod /dev/loop-control c 10 237; mknod /dev/loop0 b 7 0
             dd if=/dev/zero of=/data/disk bs=1M count=4 2>/dev/null; mke2fs -F /data/disk >/dev/null
             losetup /dev/loop0 /data/disk && mount -t ext4 /dev/loop0 /mnt && echo kept >/mnt/file",
        );
    case.run(&bundle).expect(0);
    let mut command = case.mark(Command::new("sh"));
    command.args(["-c", "/sbin/debugfs -R 'cat /file' \"$0\" 2>/dev/null"]);
    command.arg(data.join("disk"));
    assert_eq!(case.spawn(command).finish().ok(), "kept\n");
}

fn a_volume_outlives_its_containers(case: &Case) {
    let volume = case.directory().join("volume");
    fs::create_dir(&volume).unwrap();
    let file = case.directory().join("file");
    fs::write(&file, "").unwrap();
    let bundle = bind(case.busybox(), "/volume", &volume);
    let bundle = bind(bundle, "/etc/file", &file);
    for round in 0..2 {
        let script = format!(
            "echo {round} >>/volume/rounds; echo {round} >>/etc/file; cat /volume/rounds /etc/file"
        );
        let bundle = bundle.clone().shell(&script);
        let expected = ["0\n0\n", "0\n1\n0\n1\n"][round];
        assert_eq!(case.run(&bundle).ok(), expected);
    }
}

/// A guest of 64 MiB can know 8,192 files of its volumes at a time.
fn more_files_than_the_host_keeps_open_for_a_guest(case: &Case) {
    let volume = case.directory().join("volume");
    for directory in 0..60 {
        let directory = volume.join(directory.to_string());
        fs::create_dir_all(&directory).unwrap();
        for file in 0..200 {
            fs::write(directory.join(file.to_string()), "").unwrap();
        }
    }
    let bundle = bind(case.busybox(), "/volume", &volume)
        .annotation("dev.nacre.vm.memory", "64M")
        .shell("exec 3</volume/0/0; find /volume -type f -mmin -60 | wc -l; cat <&3 /volume/59/*");
    assert_eq!(case.run(&bundle).ok(), "12000\n");
}

fn a_large_directory(case: &Case) {
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    for number in 0..10_000 {
        fs::write(data.join(format!("file-{number:05}")), "").unwrap();
    }
    let bundle = bind(case.busybox(), "/data", &data)
        .shell("cd /data; ls | md5sum; find . -type f | wc -l; ls | head -n 1; ls | tail -n 1");
    let names: String = (0..10_000).map(|n| format!("file-{n:05}\n")).collect();
    let expected = case.directory().join("names");
    fs::write(&expected, names).unwrap();
    let sum = Command::new("md5sum")
        .stdin(fs::File::open(expected).unwrap())
        .output();
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    assert_eq!(
        case.run(&bundle).ok(),
        format!("{sum}10000\nfile-00000\nfile-09999\n")
    );
}

fn tmpfs(case: &Case, options: &str) -> PathBuf {
    let path = case.directory().join("tmpfs");
    fs::create_dir(&path).unwrap();
    let flags = MsFlags::empty();
    mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options)).unwrap();
    path
}

fn a_full_disk(case: &Case) {
    let full = tmpfs(case, "size=1m,mode=755");
    let bundle = bind(case.busybox(), "/data", &full).shell(
        "cd /data; df -k . | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2
         dd if=/dev/zero of=big bs=4k; stat -c %s big
         dd if=/dev/zero of=other bs=4k count=1; truncate -s 0 big; echo room >small; cat small",
    );
    let outcome = case.run(&bundle);
    assert_eq!(
        outcome.expect(0),
        "1024\n1048576\nroom\n",
        "{}",
        outcome.stderr
    );
    let told = outcome.stderr.matches("No space left on device").count();
    assert_eq!(told, 2, "{}", outcome.stderr);
    umount(&full).unwrap();
}

/// Where a directory's offsets are counts (a tmpfs before Linux 6.6), removing an entry moves all
/// that follow.
fn a_directory_that_shrinks_as_it_is_listed(case: &Case) {
    let data = tmpfs(case, "mode=755");
    fs::create_dir(data.join("many")).unwrap();
    for number in 0..10_000 {
        fs::write(data.join(format!("many/file-{number:05}")), "").unwrap();
    }
    let bundle = bind(case.busybox(), "/data", &data).shell("rm -r /data/many; ls /data");
    assert_eq!(case.run(&bundle).ok(), "");
    umount(&data).unwrap();
}

/// The end comes soon after the workload's last write, no matter what others have written that
/// isn't on the disk yet. The shortest of a few tries counts, and where the machine is so busy that
/// everything takes long, that there is something left to write.
fn the_end_waits_for_nobodys_dirty_pages(case: &Case) {
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    if statfs(&data).unwrap().filesystem_type() == TMPFS_MAGIC {
        case.ignore("the tests' directory is on a tmpfs, which has no disk");
    }
    let bundle = bind(case.busybox(), "/data", &data).shell("echo last >/data/last");
    let dirty = vec![1; 1 << 20];
    let others = case.directory().join("others");
    let tries = (0..3).map(|_| {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        let mut others = options.open(&others).unwrap();
        for _ in 0..300 {
            others.write_all(&dirty).unwrap();
        }
        case.run(&bundle).expect(0);
        let written = fs::metadata(data.join("last")).unwrap().modified().unwrap();
        (written.elapsed().unwrap(), dirty_part(&others))
    });
    let tries: Vec<(Duration, u64)> = tries.collect();
    assert!(
        tries
            .iter()
            .any(|(took, dirty)| *took < Duration::from_millis(500) || *dirty > 0),
        "{tries:?}"
    );
}

/// Returns how much of a file isn't on the disk yet, in KiB, as a mapping shows it
/// (proc_pid_smaps(5)).
fn dirty_part(file: &fs::File) -> u64 {
    let length = file.metadata().unwrap().len() as usize;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: it is mapped where there is room, and nothing reads what is mapped.
    let address = unsafe {
        let fd = file.as_raw_fd();
        libc::mmap(ptr::null_mut(), length, libc::PROT_READ, flags, fd, 0)
    };
    assert_ne!(address, libc::MAP_FAILED);
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    // SAFETY: it was just mapped, and nothing refers to it.
    unsafe { libc::munmap(address, length) };
    let head = format!("{:08x}-", address as usize);
    let fields = smaps.lines().skip_while(|line| !line.starts_with(&head));
    let fields = fields.skip(1).take_while(|line| !line.contains('-'));
    let dirty = fields.filter(|line| line.contains("_Dirty:"));
    let sizes = dirty.map(|line| line.split_whitespace().nth(1).unwrap());
    sizes.map(|size| size.parse::<u64>().unwrap()).sum()
}
