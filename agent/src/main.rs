//! The guest's init: PID 1 of every microVM, and the host's agent in it.
//!
//! It mounts what a guest needs, connects to the host over vsock and serves the protocol of
//! [`nacre_agent::protocol`] with the engine of [`nacre_agent::container`], in one thread.
//!
//! It starts without the standard library's preparations. They look for the stack's bounds in
//! `/proc`, which isn't mounted yet, and pull in 140 KiB of the C library.
#![cfg_attr(not(test), no_main)]

#[cfg_attr(test, allow(dead_code, unused_imports))]
mod init;

/// The entry point, called by the C library.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    init::run()
}
