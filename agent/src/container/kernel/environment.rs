//! Clears the caller's environment, which no container is to see.

use std::ffi::{CStr, c_char};

unsafe extern "C" {
    static environ: *const *mut c_char;
}

/// Overwrites the environment that this process was started with, so that it can't be read in
/// `/proc/PID/environ` or this process's memory. No variables are left afterwards.
///
/// # Safety
///
/// No other thread of this process may use the environment, and no code may have kept a variable
/// that it got from the C library.
pub unsafe fn forget() {
    // SAFETY: the C library ends the list with a null pointer, each variable is a writable string
    // of its own, and the caller has promised that nobody else uses them.
    unsafe {
        let mut variable = environ;
        while !variable.is_null() && !(*variable).is_null() {
            let length = CStr::from_ptr(*variable).count_bytes();
            std::ptr::write_bytes(*variable, 0, length);
            variable = variable.add(1);
        }
        libc::clearenv();
    }
}
