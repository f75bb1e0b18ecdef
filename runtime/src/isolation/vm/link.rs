//! What `nacre create` and the sandbox process that it made say to each other, over a socket that
//! only they hold.

/// From the sandbox process: which process stands for the container. Its pid follows.
pub(super) const STANDS: u8 = b's';

/// From the sandbox process: it is in the container's namespaces, and waits for the hooks.
pub(super) const READY_FOR_HOOKS: u8 = b'h';

/// The answer to that: the hooks have been run.
pub(super) const GO_ON: u8 = b'g';

/// From the sandbox process: the container is created.
pub(super) const CREATED: u8 = b'c';
