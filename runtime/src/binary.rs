//! Where this program's file is, beside which an installation may have its others.
//!
//! A program that is run anew from elsewhere ([`protect`](crate::commands::protect)) can't tell by
//! itself. It is told by a variable, which nobody else gets: it is taken out of the environment
//! before anything else is done.

use std::{
    env,
    ffi::{CString, OsString},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

const VARIABLE: &str = "NACRE_BINARY";

static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Finds it.
///
/// # Safety
///
/// No other thread may be there yet, and nobody may have changed the environment or kept a variable
/// of it.
pub(crate) unsafe fn find() {
    // SAFETY: the caller's promise.
    let told = unsafe { take() };
    BINARY.get_or_init(|| own().or(told.map(PathBuf::from)));
}

/// The variable, of which nothing stays: `/proc/PID/environ` would show it to a container as well.
///
/// # Safety
///
/// As [`find`].
unsafe fn take() -> Option<OsString> {
    let told = env::var_os(VARIABLE)?;
    let name = CString::new(VARIABLE).ok()?;
    // SAFETY: the caller's promise. What is found is a string after its name and a `=`, in the
    // memory that the kernel has put it in. It stays there, for nobody once it is removed.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        env::remove_var(VARIABLE);
        if !value.is_null() {
            let before = VARIABLE.len() + 1;
            value.sub(before).write_bytes(0, before + told.len());
        }
    }
    Some(told)
}

/// As the kernel has it, unless that is no path of a file: of one without a place.
fn own() -> Option<PathBuf> {
    let path = env::current_exe().ok()?;
    fs::metadata(&path)
        .is_ok_and(|it| it.is_file())
        .then_some(path)
}

/// The path of the file `name` beside this program's, if there is one.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let beside = path()?.with_file_name(name);
    beside.exists().then_some(beside)
}

fn path() -> Option<&'static Path> {
    BINARY.get()?.as_deref()
}

/// Does what may run this program anew, which is told then.
///
/// # Safety
///
/// No other thread may be there.
pub(crate) unsafe fn tell<T>(run: impl FnOnce() -> T) -> T {
    if let Some(path) = path() {
        // SAFETY: the caller's promise.
        unsafe { env::set_var(VARIABLE, path) };
    }
    let returned = run();
    // SAFETY: as before.
    unsafe { env::remove_var(VARIABLE) };
    returned
}
