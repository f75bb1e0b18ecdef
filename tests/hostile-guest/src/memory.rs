//! Memory and registers by their physical addresses, which is how devices know them: the first 4 GiB
//! are mapped to themselves.

use core::ptr::{read_volatile, write_volatile};

/// What is mapped.
const MAPPED: u64 = 1 << 32;

/// Where queues' rings are, in slots.
pub const RINGS: u64 = 8 << 20;
pub const RINGS_SLOT: u64 = 64 << 10;
/// Where everything is that devices are given, up to [`ARENA_END`].
pub const ARENA: u64 = 20 << 20;
pub const ARENA_END: u64 = 52 << 20;

/// Reads what a device may write at any time.
pub fn read<T: Copy>(at: u64) -> T {
    assert!(at < MAPPED - 8);
    // SAFETY: it is mapped, and of a type for which all bytes are valid: only integers are read.
    unsafe { read_volatile(at as *const T) }
}

/// Writes what a device may read at any time.
pub fn write<T: Copy>(at: u64, value: T) {
    assert!(at < MAPPED - 8);
    // SAFETY: it is mapped, and this program's own memory is below the rings: nobody writes there.
    unsafe { write_volatile(at as *mut T, value) }
}

/// Copies bytes into memory that devices are given.
pub fn put(at: u64, bytes: &[u8]) {
    assert!(at >= RINGS && at + (bytes.len() as u64) < MAPPED);
    for (at, byte) in (at..).zip(bytes) {
        write(at, *byte);
    }
}

/// Copies bytes out of it; as many as there is room for.
pub fn get(at: u64, bytes: &mut [u8]) {
    for (at, byte) in (at..).zip(bytes) {
        *byte = read(at);
    }
}

// What the compiler calls, and the core library doesn't have for a target with a C library.

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: the caller's promise, and copying forwards overwrites nothing that is to be copied.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("std", "rep movsb", "cld", inout("rcx") length => _,
            inout("rdi") to.wrapping_add(length).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(length).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _,
            in("al") byte as u8, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: the caller's promise.
        let (one, other) = unsafe { (*one.add(i), *other.add(i)) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(one, other, length) }
}
