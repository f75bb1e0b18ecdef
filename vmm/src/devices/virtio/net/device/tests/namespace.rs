//! Gives a test its own network namespace with interfaces.

use std::ffi::c_short;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::panic::resume_unwind;
use std::path::Path;

/// Runs `test` on a thread in a network namespace of its own; skips it if that isn't allowed.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: a plain call, which concerns this thread only.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            let error = io::Error::last_os_error();
            panic!("skipped: no network namespace for this process: {error}");
        } else if !Path::new("/dev/net/tun").exists() {
            panic!("skipped: this host has no /dev/net/tun");
        } else {
            test();
        }
    });
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn ioctl(number: libc::Ioctl, request: &libc::ifreq) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: the request is valid for the calls that tests make.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), number, request) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

/// Gives an interface an address with a 24-bit network prefix, and brings it up.
pub(super) fn bring_up(name: &str, address: Ipv4Addr) {
    for (number, address) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 255, 255, 0)),
    ] {
        let mut request = request(name);
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from(address).to_be(),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: both are socket addresses of 16 bytes without padding.
        request.ifr_ifru.ifru_addr =
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
        ioctl(number, &request);
    }
    set_up(name, true);
}

pub(super) fn set_up(name: &str, up: bool) {
    let mut request = request(name);
    let flags = if up { libc::IFF_UP } else { 0 };
    request.ifr_ifru.ifru_flags = flags as c_short;
    ioctl(libc::SIOCSIFFLAGS, &request);
}

/// Returns the interface's index, if it exists.
pub(super) fn index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: `name` is a string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Deletes an interface, whoever has it open (`RTM_DELLINK`).
pub(super) fn delete(name: &str) {
    // SAFETY: a plain call; the descriptor returned is nobody else's.
    let mut socket = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0);
        File::from_raw_fd(socket)
    };
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes());
    message.extend(libc::RTM_DELLINK.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]);
    // `struct ifinfomsg`
    message.extend([0; 4]);
    message.extend(index(name).unwrap().to_ne_bytes());
    message.extend([0; 8]);
    socket.write_all(&message).unwrap();
    let mut answer = [0; 1024];
    let count = socket.read(&mut answer).unwrap();
    assert!(count >= 20);
    assert_eq!(answer[16..20], [0; 4], "the interface wasn't deleted");
}
