//! The driver's buffers: one direction of a descriptor chain, in guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// The kernel's limit on the number of parts in one vectored read or write.
pub(crate) const MAX_PARTS: usize = libc::UIO_MAXIOV as usize;

/// Pieces of guest memory, consumed from the front. Each was checked to lie in guest memory.
#[derive(Default)]
pub(crate) struct Buffers<'m> {
    parts: Vec<VolatileSlice<'m>>,
}

impl<'m> Buffers<'m> {
    pub(crate) fn push(&mut self, part: VolatileSlice<'m>) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// Returns how many bytes are left.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(VolatileSlice::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn parts(&self) -> &[VolatileSlice<'m>] {
        &self.parts
    }

    /// Takes off the first `count` bytes, or all of them if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Buffers<'m> {
        let mut front = Buffers::default();
        let mut left = count;
        let mut whole = 0;
        for part in &mut self.parts {
            if left < part.len() {
                if left > 0 {
                    // `left` is within the part, so neither can fail.
                    if let (Ok(head), Ok(tail)) = (part.subslice(0, left), part.offset(left)) {
                        front.parts.push(head);
                        *part = tail;
                    }
                }
                break;
            }
            left -= part.len();
            front.parts.push(*part);
            whole += 1;
        }
        self.parts.drain(..whole);
        front
    }

    /// Copies bytes out and takes them off. Returns how many: fewer than requested if there are no
    /// more.
    pub(crate) fn read(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for part in self.take(to.len()).parts {
            part.copy_to(&mut to[done..]);
            done += part.len();
        }
        done
    }

    /// Copies bytes out without taking them off. Returns how many, like [`Self::read`].
    pub(crate) fn peek(&self, to: &mut [u8]) -> usize {
        let mut done = 0;
        for part in &self.parts {
            done += part.copy_to(&mut to[done..]);
        }
        done
    }

    /// Copies bytes in and takes off the room that they fill. Returns how many fitted.
    pub(crate) fn write(&mut self, from: &[u8]) -> usize {
        let mut done = 0;
        for part in self.take(from.len()).parts {
            part.copy_from(&from[done..]);
            done += part.len();
        }
        done
    }

    /// Sends from the front to a stream socket, without blocking and without `SIGPIPE`. Returns how
    /// many bytes were sent; they aren't taken off.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut iovecs = self.iovecs(usize::MAX);
        let message = message(&mut iovecs);
        // SAFETY: the message's only pointer is to `iovecs`, which lives until the call
        // returns, and they describe memory that `parts` keeps borrowed.
        retry(|| unsafe {
            libc::sendmsg(
                socket.as_raw_fd(),
                &message,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        })
    }

    /// Receives at most `limit` bytes from a stream socket into the front, without blocking.
    /// Returns how many bytes were received, 0 at the end of the stream; their room isn't taken
    /// off.
    pub(crate) fn receive(&self, socket: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        let mut iovecs = self.iovecs(limit);
        let mut message = message(&mut iovecs);
        // SAFETY: as in `send`; guest memory may be written at any time.
        retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) })
    }

    fn iovecs(&self, limit: usize) -> Vec<libc::iovec> {
        let mut left = limit;
        self.parts
            .iter()
            .take(MAX_PARTS)
            .map_while(|part| {
                let length = part.len().min(left);
                left -= length;
                (length > 0).then(|| libc::iovec {
                    iov_base: part.ptr_guard_mut().as_ptr().cast(),
                    iov_len: length,
                })
            })
            .collect()
    }
}

fn message(iovecs: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid message without address, data and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    message
}

/// Repeats a system call that a signal interrupted.
pub(crate) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

    fn buffers<'m>(memory: &'m GuestMemoryMmap, parts: &[(u64, usize)]) -> Buffers<'m> {
        let mut buffers = Buffers::default();
        for (address, length) in parts {
            buffers.push(memory.get_slice(GuestAddress(*address), *length).unwrap());
        }
        buffers
    }

    #[test]
    fn bytes_go_through_in_order_whatever_the_parts() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let layout = [(0x800, 3), (0x100, 0), (0x10, 5), (0x400, 1)];
        let mut buffers_in = buffers(&memory, &layout);
        assert_eq!(buffers_in.len(), 9);
        assert_eq!(buffers_in.write(b"abcd"), 4);
        assert_eq!(buffers_in.len(), 5);
        assert_eq!(buffers_in.write(b"efghijk"), 5);
        assert!(buffers_in.is_empty());

        let mut out = buffers(&memory, &layout);
        let mut head = [0; 2];
        assert_eq!(out.peek(&mut head), 2);
        assert_eq!(out.read(&mut head), 2);
        assert_eq!(&head, b"ab");
        let mut middle = out.take(4);
        assert_eq!((middle.len(), out.len()), (4, 3));
        let mut bytes = [0; 8];
        assert_eq!(middle.read(&mut bytes), 4);
        assert_eq!(&bytes[..4], b"cdef");
        assert_eq!(out.read(&mut bytes), 3);
        assert_eq!(&bytes[..3], b"ghi");
        assert_eq!(out.read(&mut bytes), 0);
    }

    #[test]
    fn sockets_are_read_and_written_in_place() {
        use std::os::fd::AsFd;
        use std::os::unix::net::UnixStream;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let from = buffers(&memory, &[(0x10, 3), (0x20, 3)]);
        buffers(&memory, &[(0x10, 3), (0x20, 3)]).write(b"secret");
        assert_eq!(from.send(a.as_fd()).unwrap(), 6);
        let to = buffers(&memory, &[(0x800, 1), (0x900, 100)]);
        assert_eq!(to.receive(b.as_fd(), 4).unwrap(), 4);
        let mut bytes = [0; 4];
        buffers(&memory, &[(0x800, 1), (0x900, 100)]).read(&mut bytes);
        assert_eq!(&bytes, b"secr");
        assert_eq!(to.receive(b.as_fd(), 100).unwrap(), 2);
        let mut bytes = [0; 4];
        buffers(&memory, &[(0x800, 1), (0x900, 100)]).read(&mut bytes);
        assert_eq!(&bytes, b"etcr");
        let nothing = to.receive(b.as_fd(), 100).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(b);
        let broken = from.send(a.as_fd()).unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    }
}
