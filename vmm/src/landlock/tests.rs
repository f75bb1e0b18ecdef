//! What threads can do that Landlock restricts, on this host's kernel.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::rights::ThreadRights;

/// The version that knows requests to devices.
const WITH_DEVICE_REQUESTS: usize = 5;

/// Fails unless a thread was refused it by Landlock.
#[track_caller]
fn is_refused<T>(outcome: io::Result<T>) {
    let error = outcome.err().expect("it is refused");
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
}

#[test]
#[ignore = "needs a kernel with Landlock"]
fn nothing_can_be_opened_that_is_not_open() {
    if Landlock::find().is_none() {
        panic!("skipped: the kernel has no Landlock");
    }
    let outcome = thread::spawn(|| {
        let mut open = File::open("/proc/self/status").unwrap();
        ThreadRights::NONE.keep().unwrap();
        forbid_files(Scope::Nothing).unwrap();
        assert!(open.read(&mut [0; 8]).unwrap() > 0);
        is_refused(File::open("/dev/null"));
        is_refused(fs::read_dir("/"));
        is_refused(fs::create_dir("/tmp/never"));
    });
    outcome.join().unwrap();
}

#[test]
#[ignore = "needs a kernel with Landlock"]
fn a_directory_is_all_that_is_left() {
    if !Landlock::find().is_some_and(Landlock::keeps_to_directories) {
        panic!("skipped: the kernel has no Landlock that keeps to a directory");
    }
    let [inside, outside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    fs::write(outside.path().join("file"), "").unwrap();
    let outcome = thread::spawn(move || {
        ThreadRights::NONE.keep().unwrap();
        let directory = File::open(inside.path()).unwrap();
        keep_to(directory.as_fd(), Scope::Nothing).unwrap();
        everything_can_be_done_in(inside.path());
        let beyond = |name: &str| outside.path().join(name);
        is_refused(fs::read(beyond("file")));
        is_refused(fs::read_dir(beyond("")));
        is_refused(fs::write(beyond("new"), ""));
        is_refused(fs::remove_file(beyond("file")));
        is_refused(File::open("/dev/null"));
        fs::write(inside.path().join("file"), "").unwrap();
        let moved = fs::rename(inside.path().join("file"), beyond("moved"));
        assert!(moved.is_err());
        if Landlock::find().unwrap().version() >= WITH_PORTS {
            is_refused(TcpListener::bind("127.0.0.1:0"));
            is_refused(TcpStream::connect("127.0.0.1:1"));
        }
    });
    outcome.join().unwrap();
}

/// Does with files what a guest may ask for.
fn everything_can_be_done_in(directory: &Path) {
    let at = |name: &str| directory.join(name);
    for name in ["one", "two"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("one/file"), "content").unwrap();
    assert_eq!(fs::read(at("one/file")).unwrap(), b"content");
    fs::rename(at("one/file"), at("two/moved")).unwrap();
    fs::hard_link(at("two/moved"), at("one/link")).unwrap();
    std::os::unix::fs::symlink("moved", at("two/symlink")).unwrap();
    let file = File::options().write(true).open(at("two/symlink")).unwrap();
    file.set_len(1).unwrap();
    fs::File::create(at("one/link")).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    fs::rename(at("one"), at("two/one")).unwrap();
    fs::remove_dir_all(at("two")).unwrap();
    fs::remove_file(at("socket")).unwrap();
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
}

/// Runs `test`, with mounts of its own, on two empty directories: another thread is kept to the first one,
/// and does what it is given.
fn kept_and_free(test: impl FnOnce(&Path, &Path, &dyn Fn(Work)) + Send + 'static) {
    // SAFETY: geteuid() always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        panic!("skipped: it needs root");
    }
    if !Landlock::find().is_some_and(Landlock::keeps_to_directories) {
        panic!("skipped: the kernel has no Landlock that keeps to a directory");
    }
    let [kept, free] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let outcome = thread::spawn(move || {
        let none = ptr::null::<libc::c_char>();
        // SAFETY: the calls take numbers, C strings, and null where that is accepted.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS).into()).unwrap();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let root = c"/".as_ptr();
            check(libc::mount(none, root, none, private, none.cast()).into()).unwrap();
        }
        let (give, given) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        let directory = File::open(kept.path()).unwrap();
        let confined = thread::spawn(move || {
            ThreadRights::NONE.keep().unwrap();
            keep_to(directory.as_fd(), Scope::Nothing).unwrap();
            for work in given {
                work();
                tell.send(()).unwrap();
            }
        });
        test(kept.path(), free.path(), &|work| {
            give.send(work).unwrap();
            told.recv().unwrap();
        });
        drop(give);
        confined.join().unwrap();
    });
    outcome.join().unwrap();
}

type Work = Box<dyn FnOnce() + Send>;

/// Mounts a directory on another one.
fn bind(from: &Path, to: &Path) {
    let [from, to] = [from, to].map(|path| CString::new(path.to_str().unwrap()).unwrap());
    let none = ptr::null::<libc::c_char>();
    // SAFETY: C strings, and null where that is accepted.
    let bound =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast()) };
    check(bound.into()).unwrap();
}

#[test]
#[ignore = "needs root, and a kernel with Landlock"]
fn what_is_mounted_later_belongs_to_the_directory() {
    kept_and_free(|kept, free, confined| {
        let point = kept.join("point");
        fs::create_dir(&point).unwrap();
        bind(free, &point);
        confined(Box::new(move || everything_can_be_done_in(&point)));
        // A mount that is attached nowhere doesn't.
        let path = CString::new(free.to_str().unwrap()).unwrap();
        // SAFETY: a C string; the descriptor is new, and nobody else's.
        let tree = unsafe {
            let flags = 1 | libc::O_CLOEXEC; // OPEN_TREE_CLONE
            let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
            check(tree).unwrap();
            File::from_raw_fd(tree as RawFd)
        };
        confined(Box::new(move || {
            is_refused(fs::read_dir(format!("/proc/self/fd/{}", tree.as_raw_fd())));
        }));
    });
}

#[test]
#[ignore = "needs root, and a kernel with Landlock"]
fn what_is_moved_out_of_a_mount_still_belongs_to_it() {
    kept_and_free(|kept, free, confined| {
        let (volume, point) = (free.join("volume"), kept.join("point"));
        for directory in [&volume.join("directory"), &point] {
            fs::create_dir_all(directory).unwrap();
        }
        bind(&volume, &point);
        let open = File::open(point.join("directory")).unwrap();
        fs::rename(volume.join("directory"), free.join("moved")).unwrap();
        confined(Box::new(move || {
            let open = format!("/proc/self/fd/{}", open.as_raw_fd());
            everything_can_be_done_in(Path::new(&open));
        }));
    });
}

#[test]
#[ignore = "needs root, and a kernel with Landlock"]
fn nothing_is_executed_there_and_no_device_asked() {
    kept_and_free(|kept, _free, confined| {
        let (program, device) = (kept.join("program"), kept.join("device"));
        fs::copy("/bin/true", &program).unwrap();
        assert!(Command::new(&program).status().unwrap().success());
        fs::write(&device, "").unwrap();
        bind(Path::new("/dev/null"), &device);
        confined(Box::new(move || {
            assert!(fs::read(&program).unwrap().len() > 1);
            is_refused(Command::new(&program).status());
            let device = File::open(&device).unwrap();
            // SAFETY: the device isn't a terminal, so nothing is written.
            let asked = unsafe {
                libc::ioctl(
                    device.as_raw_fd(),
                    libc::TCGETS,
                    ptr::null_mut::<libc::c_void>(),
                )
            };
            if Landlock::find().unwrap().version() >= WITH_DEVICE_REQUESTS {
                is_refused(check(asked.into()));
            }
        }));
    });
}
