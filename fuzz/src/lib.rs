//! What the targets need of the host, and the doors that have no module of their own.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use nacre_agent::container::config;
use nacre_agent::protocol;

/// Makes an empty file of `size` bytes in memory.
///
/// # Panics
///
/// If the host has no memory for it.
pub fn file(size: u64) -> File {
    // SAFETY: the name is a string, and the descriptor, if there is one, is nobody else's.
    let file = unsafe {
        let descriptor = libc::memfd_create(c"fuzzed".as_ptr(), libc::MFD_CLOEXEC);
        assert!(descriptor >= 0, "the host has no memory");
        File::from_raw_fd(descriptor)
    };
    file.set_len(size).expect("the host has memory");
    file
}

/// Makes files of all kinds: of 16 MiB that can't shrink, as a machine's memory, and that can; an
/// empty one; one that can't be mapped; and ends of a pipe and of an event.
///
/// # Panics
///
/// If the host has no memory or descriptors left.
pub fn shown() -> Vec<File> {
    let sealable = |size| {
        // SAFETY: the name is a string, and the descriptor, if there is one, is nobody else's.
        let file = unsafe {
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            let descriptor = libc::memfd_create(c"fuzzed".as_ptr(), flags);
            assert!(descriptor >= 0, "the host has no memory");
            File::from_raw_fd(descriptor)
        };
        file.set_len(size).expect("the host has memory");
        // SAFETY: the call takes numbers.
        let sealed =
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) };
        assert_eq!(sealed, 0, "such files can be sealed");
        file
    };
    // SAFETY: the call takes numbers, and the descriptor, if there is one, is nobody else's.
    let event = unsafe {
        let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        assert!(descriptor >= 0, "there are descriptors");
        File::from_raw_fd(descriptor)
    };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.expect("every host has it");
    vec![
        sealable(16 << 20),
        event,
        file(16 << 20),
        sealable(0),
        null,
        input(),
    ]
}

/// Calls `door` with a file of these bytes.
///
/// # Panics
///
/// If the host has no memory for it.
pub fn with_file(bytes: &[u8], door: impl FnOnce(&File)) {
    thread_local!(static FILE: File = file(0));
    FILE.with(|file| {
        file.set_len(0).expect("files can shrink");
        file.write_all_at(bytes, 0).expect("the host has memory");
        door(file);
    });
}

/// Makes a pipe that has something to read.
///
/// # Panics
///
/// If the host has no descriptors left.
pub fn input() -> File {
    let (reader, mut writer) = std::io::pipe().expect("there are descriptors");
    writer.write_all(b"some input").expect("it has room");
    File::from(std::os::fd::OwnedFd::from(reader))
}

/// Returns a directory for a guest to write to: it is the same for all of this process's inputs,
/// emptied now and then.
///
/// # Panics
///
/// If it can't be made.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let make = || {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        std::fs::write(directory.path().join("file"), "content").expect("there is room");
        std::fs::create_dir(directory.path().join("directory")).expect("there is room");
        directory
    };
    DIRECTORY.get_or_init(make).path()
}

/// The sandbox process's messages, as the agent reads them.
pub fn agent_hears(mut bytes: &[u8]) {
    while let Ok(Some(_)) = protocol::receive::<protocol::Request>(&mut bytes) {}
}

/// A container's configuration, or one of a process.
pub fn config(json: &[u8]) {
    if let Ok((spec, _)) = config::read(json) {
        // An error is what most deserve.
        let _ = config::validate(&spec);
    }
    let _ = config::read_process(json);
}
