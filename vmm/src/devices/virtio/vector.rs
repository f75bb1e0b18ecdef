//! Vectored reads and writes between a file on one side and pieces of guest memory and of our own
//! on the other, in place.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::buffers::{Buffers, MAX_PARTS, retry};

/// Pieces of memory in the order in which they are read into or written from. What exceeds the
/// kernel's limit on their number is left out: such a transfer is short.
pub(crate) struct Vector<'a> {
    parts: Vec<libc::iovec>,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Vector<'a> {
    /// Makes an empty vector, with room for `count` pieces.
    pub(crate) fn with_capacity(count: usize) -> Vector<'a> {
        Vector {
            parts: Vec::with_capacity(count.min(MAX_PARTS)),
            memory: PhantomData,
        }
    }

    /// Makes a vector of all of `buffers`.
    pub(crate) fn from_buffers(buffers: &'a Buffers<'_>) -> Vector<'a> {
        let mut vector = Vector::with_capacity(buffers.parts().len());
        vector.extend(buffers);
        vector
    }

    /// Adds bytes of our own.
    pub(crate) fn push(&mut self, bytes: &'a mut [u8]) {
        self.add(bytes.as_mut_ptr(), bytes.len());
    }

    /// Adds guest memory.
    pub(crate) fn extend(&mut self, buffers: &'a Buffers<'_>) {
        for part in buffers.parts() {
            self.add(part.ptr_guard_mut().as_ptr(), part.len());
        }
    }

    fn add(&mut self, start: *mut u8, length: usize) {
        if self.parts.len() < MAX_PARTS {
            self.parts.push(libc::iovec {
                iov_base: start.cast(),
                iov_len: length,
            });
        }
    }

    /// Calls `readv(2)`: returns how many bytes were read, 0 at the end of the file.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let (parts, count) = self.raw();
        // SAFETY: `parts` describes memory that is borrowed for writing, or guest memory, which may
        // be written at any time; the same holds for the other calls.
        retry(|| unsafe { libc::readv(file.as_raw_fd(), parts, count) })
    }

    /// Calls `writev(2)`: returns how many bytes were written.
    pub(crate) fn write(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let (parts, count) = self.raw();
        // SAFETY: as in `read`.
        retry(|| unsafe { libc::writev(file.as_raw_fd(), parts, count) })
    }

    /// Calls `preadv(2)`: returns how many bytes were read, 0 at the end of the file.
    pub(crate) fn read_at(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let (parts, count) = self.raw();
        let offset = file_offset(offset)?;
        // SAFETY: as in `read`.
        retry(|| unsafe { libc::preadv(file.as_raw_fd(), parts, count, offset) })
    }

    /// Calls `pwritev2(2)` with `flags` such as `RWF_DSYNC`: returns how many bytes were written.
    pub(crate) fn write_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        flags: i32,
    ) -> io::Result<usize> {
        let (parts, count) = self.raw();
        let offset = file_offset(offset)?;
        // SAFETY: as in `read`.
        retry(|| unsafe { libc::pwritev2(file.as_raw_fd(), parts, count, offset, flags) })
    }

    fn raw(&mut self) -> (*const libc::iovec, i32) {
        // There are at most `MAX_PARTS`.
        (self.parts.as_ptr(), self.parts.len() as i32)
    }
}

fn file_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

    use super::*;

    fn bytes_of_guest<'m>(memory: &'m GuestMemoryMmap, parts: &[(u64, usize)]) -> Buffers<'m> {
        let mut buffers = Buffers::default();
        for (address, length) in parts {
            buffers.push(memory.get_slice(GuestAddress(*address), *length).unwrap());
        }
        buffers
    }

    #[test]
    fn own_and_guest_memory_are_one_row_of_bytes() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let guest = bytes_of_guest(&memory, &[(0x100, 2), (0x10, 3)]);
        let (mut head, mut tail) = ([0; 2], [9; 4]);
        let (from, to) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut &to, b"abcdefgh").unwrap();
        let mut vector = Vector::with_capacity(4);
        vector.push(&mut head);
        vector.extend(&guest);
        vector.push(&mut tail);
        assert_eq!(vector.read(from.as_fd()).unwrap(), 8);
        assert_eq!(vector.write(to.as_fd()).unwrap(), 11);
        assert_eq!((&head, &tail), (b"ab", b"h\x09\x09\x09"));
        let mut out = [0; 11];
        std::io::Read::read_exact(&mut &from, &mut out).unwrap();
        assert_eq!(&out, b"abcdefgh\x09\x09\x09");
        let mut bytes = [0; 3];
        memory.read_slice(&mut bytes, GuestAddress(0x10)).unwrap();
        assert_eq!(&bytes, b"efg");
    }

    #[test]
    fn more_parts_than_the_kernel_takes_make_a_short_transfer() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let guest = bytes_of_guest(&memory, &[(0, 1); MAX_PARTS + 1]);
        let null = File::options().write(true).open("/dev/null").unwrap();
        let written = Vector::from_buffers(&guest)
            .write_at(null.as_fd(), 0, 0)
            .unwrap();
        assert_eq!(written, MAX_PARTS);
        let beyond = Vector::from_buffers(&guest).read_at(null.as_fd(), 1 << 63);
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
