//! A kernel's file: what is loaded as the guest's kernel may be anybody's.

use std::fs::File;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::loader::load_kernel;

const MEMORY_SIZE: usize = 4 << 20;

/// Loads a kernel from a file that says anything about itself.
pub fn kernel(file: &File) {
    thread_local! {
        static MEMORY: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])
            .expect("there is memory");
    }
    // An error is what most files deserve.
    MEMORY.with(|memory| drop(load_kernel(memory, MEMORY_SIZE as u64, file)));
}
