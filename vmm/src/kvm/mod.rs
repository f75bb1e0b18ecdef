//! Machines run by KVM, and the check whether the host's KVM can run a stock kernel.

mod check;
mod kick;
mod machine;
mod pause;
mod probe;
mod running;
mod shared;
mod vcpu;
mod wires;

pub use check::{check, check_nested};
pub(crate) use machine::KvmMachine;
pub(crate) use running::RunningKvm;
