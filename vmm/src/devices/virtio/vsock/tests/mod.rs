//! Tests the device, driven by a guest's driver in plain memory.

mod data;
mod guest;
mod hostile;
