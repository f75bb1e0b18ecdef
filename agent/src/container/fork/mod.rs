//! Processes that run the engine's own program: how they are made, and how they and the engine talk.

pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod crossing;
pub(crate) mod passage;
pub(crate) mod placement;
