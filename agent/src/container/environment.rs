//! The caller's environment, which is nobody's business in a container.

use std::ffi::{CStr, c_char};

unsafe extern "C" {
    static environ: *const *mut c_char;
}

/// Overwrites the environment that this process was started with, where `/proc/PID/environ` and
/// whoever may read its memory would find it. There are no variables afterwards.
///
/// # Safety
///
/// No other thread of this process may have a use for the environment, and nobody in it may have
/// kept a variable that it got from the C library.
pub unsafe fn forget() {
    // SAFETY: the C library ends the list with a null pointer, each variable is a string of its
    // own that may be written to, and the caller has promised that nobody else uses them.
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
