//! The file server as a guest's driver sees it.

mod files;
mod hostile;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtiofsd::fuse::{
    CreateIn, Dirent, EntryOut, InHeader, InitInCompat, InitInExt, InitOut, MkdirIn, OpenIn,
    OpenOut, OutHeader, ReadIn, WriteIn,
};
use vm_memory::ByteValued;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::throttle::{Rate, RateLimit, Throttle};

const HIPRIO: usize = 0;
const REQUESTS: usize = 1;

const IN: u64 = BUFFERS;
const OUT: u64 = BUFFERS + 0x40_0000;
const OUT_SIZE: u32 = 0x1_0000;

pub(super) const ROOT: u64 = 1;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RENAME: u32 = 12;
pub(super) const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
pub(super) const CREATE: u32 = 35;

/// A driver with a mounted file system.
pub(super) struct Guest {
    machine: Machine<Fs>,
    unique: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its subdirectory `export` is exported.
    directory: tempfile::TempDir,
}

impl Guest {
    pub(super) fn new() -> Guest {
        let mut guest = Guest::unmounted();
        guest.mount();
        guest
    }

    fn unmounted() -> Guest {
        Guest::prepared(|device, _| device)
    }

    /// Makes a driver of a device that `prepare` has changed.
    pub(super) fn prepared(prepare: impl FnOnce(Fs, &Path) -> Fs) -> Guest {
        let directory = tempfile::tempdir().unwrap();
        let export = directory.path().join("export");
        fs::create_dir(&export).unwrap();
        // The guests in the tests act as several users.
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let device = Fs::new("shared", &export).unwrap();
        Guest {
            machine: Machine::new(prepare(device, &export)),
            unique: 0,
            uid: 0,
            gid: 0,
            directory,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("export").join(name)
    }

    fn init_body(flags: u32, flags2: u32) -> Vec<u8> {
        let init = InitInCompat {
            major: 7,
            minor: 38,
            max_readahead: 0x2_0000,
            flags,
        };
        let more = InitInExt {
            flags2,
            ..Default::default()
        };
        [init.as_slice(), more.as_slice()].concat()
    }

    pub(super) fn mount(&mut self) {
        // Everything that Linux offers, including INIT_EXT, SUBMOUNTS and CREATE_SUPP_GROUP.
        let answer = self
            .request(INIT, 0, &[&Guest::init_body(u32::MAX, 1 << 2)])
            .unwrap();
        let answer = InitOut::from_slice(&answer).unwrap();
        assert_eq!(answer.major, 7);
    }

    fn header(&mut self, opcode: u32, node: u64, length: usize) -> InHeader {
        self.unique += 1;
        InHeader {
            len: (size_of::<InHeader>() + length) as u32,
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: self.uid.into(),
            gid: self.gid.into(),
            pid: 1,
            ..Default::default()
        }
    }

    /// Returns the file system's answer, or its error number.
    pub(super) fn request(
        &mut self,
        opcode: u32,
        node: u64,
        body: &[&[u8]],
    ) -> Result<Vec<u8>, i32> {
        let body = body.concat();
        let header = self.header(opcode, node, body.len());
        self.raw_request(&header, &body)
    }

    fn raw_request(&mut self, header: &InHeader, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.machine.write(IN, header.as_slice());
        self.machine.write(IN + 0x1000, body);
        let written = self.machine.queues[REQUESTS].run(&[
            (IN, size_of::<InHeader>() as u32, false),
            (IN + 0x1000, body.len() as u32, false),
            (OUT, 16, true),
            (OUT + 0x1000, OUT_SIZE, true),
        ]);
        assert_eq!(self.machine.interrupt.failure(), None);
        let answer = self.machine.read(OUT, 16);
        let answer = OutHeader::from_slice(&answer).unwrap();
        assert_eq!(answer.unique, header.unique);
        assert_eq!(answer.len, written);
        match answer.error {
            0 => Ok(self.machine.read(OUT + 0x1000, written as usize - 16)),
            error => Err(-error),
        }
    }

    pub(super) fn lookup(&mut self, node: u64, name: &str) -> Result<EntryOut, i32> {
        let answer = self.request(LOOKUP, node, &[name.as_bytes(), b"\0"])?;
        Ok(*EntryOut::from_slice(&answer).unwrap())
    }

    pub(super) fn open(&mut self, opcode: u32, node: u64) -> u64 {
        self.open_with_options(opcode, node).0
    }

    fn open_with_options(&mut self, opcode: u32, node: u64) -> (u64, u32) {
        let access = if opcode == OPEN { libc::O_RDWR } else { 0 };
        self.open_for(opcode, node, access)
    }

    fn open_for(&mut self, opcode: u32, node: u64, access: i32) -> (u64, u32) {
        let open = OpenIn {
            flags: access as u32,
            open_flags: 0,
        };
        let answer = self.request(opcode, node, &[open.as_slice()]).unwrap();
        let answer = OpenOut::from_slice(&answer).unwrap();
        (answer.fh, answer.open_flags)
    }

    fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let read = ReadIn {
            fh: handle,
            offset,
            size,
            ..Default::default()
        };
        self.request(READ, node, &[read.as_slice()])
    }

    pub(super) fn write(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), i32> {
        let write = WriteIn {
            fh: handle,
            offset,
            size: data.len() as u32,
            ..Default::default()
        };
        self.request(WRITE, node, &[write.as_slice(), data])
            .map(|_| ())
    }

    pub(super) fn create(&mut self, name: &str, mode: u32) -> (EntryOut, u64) {
        let create = CreateIn {
            flags: (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32,
            mode: libc::S_IFREG | mode,
            umask: 0,
            open_flags: 0,
        };
        let body = [create.as_slice(), name.as_bytes(), b"\0"];
        let answer = self.request(CREATE, ROOT, &body).unwrap();
        let (entry, open) = answer.split_at(size_of::<EntryOut>());
        (
            *EntryOut::from_slice(entry).unwrap(),
            OpenOut::from_slice(open).unwrap().fh,
        )
    }

    /// Lists a page of a directory: names, and the position after each.
    fn list(&mut self, handle: u64, position: u64, size: u32) -> Vec<(String, u64)> {
        let read = ReadIn {
            fh: handle,
            offset: position,
            size,
            ..Default::default()
        };
        let answer = self.request(READDIR, ROOT, &[read.as_slice()]).unwrap();
        let mut rest = &answer[..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(size_of::<Dirent>());
            let entry = *Dirent::from_slice(head).unwrap();
            let name = str::from_utf8(&tail[..entry.namelen as usize]).unwrap();
            names.push((name.to_owned(), entry.off));
            rest = &tail[(entry.namelen as usize).next_multiple_of(8)..];
        }
        names
    }
}

fn reads_a_file(machine: &mut Machine<Fs>) {
    let header = InHeader {
        len: 40 + 64,
        opcode: INIT,
        unique: 1,
        ..Default::default()
    };
    machine.write(IN, header.as_slice());
    machine.write(IN + 40, &Guest::init_body(u32::MAX, 1 << 2));
    let written = machine.queues[REQUESTS].run(&[(IN, 40 + 64, false), (OUT, 80, true)]);
    assert_eq!(written, 80);
}
