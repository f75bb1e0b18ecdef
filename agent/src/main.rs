//! The guest's init: PID 1 of every microVM, and the host's hand in it.
//!
//! It mounts what a guest needs, connects to the host over vsock and serves the protocol of
//! [`nacre_agent::protocol`] with the engine of [`nacre_agent::container`], in one thread.

mod init;

fn main() {
    init::run()
}
