//! Finds this program's file, beside which an installation may have its other files.
//!
//! A program that is run anew from elsewhere ([`protect`](crate::commands::protect)) can't find
//! that out by itself. It is told by an environment variable, which nobody else gets: it is removed
//! from the environment before anything else is done.

use std::{
    env,
    ffi::{CString, OsString},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

const VARIABLE: &str = "NACRE_BINARY";

static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Finds the file.
///
/// # Safety
///
/// There must be no other thread yet, and nobody may have changed the environment or kept a
/// reference to a variable of it.
pub(crate) unsafe fn find() {
    // SAFETY: the caller's promise.
    let told = unsafe { take() };
    BINARY.get_or_init(|| own().or(told.map(PathBuf::from)));
}

/// Takes the variable out of the environment without a trace: otherwise `/proc/PID/environ` would
/// show it, to a container as well.
///
/// # Safety
///
/// As for [`find`].
unsafe fn take() -> Option<OsString> {
    let told = env::var_os(VARIABLE)?;
    let name = CString::new(VARIABLE).ok()?;
    // SAFETY: the caller's promise. What is found is a string after the variable's name and a `=`,
    // in the memory where the kernel has put it. It stays there, and nobody uses it once the
    // variable is removed.
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

/// Returns the kernel's path of this program, unless that isn't a file's path because the file has
/// no place.
fn own() -> Option<PathBuf> {
    let path = env::current_exe().ok()?;
    fs::metadata(&path)
        .is_ok_and(|it| it.is_file())
        .then_some(path)
}

/// Returns the path of the file `name` of this program's installation, if it exists: beside the
/// program's, or in `lib/nacre` beside the program's directory.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let program = path()?;
    let prefix = program.parent()?.parent();
    let library = prefix.map(|prefix| prefix.join("lib/nacre").join(name));
    [Some(program.with_file_name(name)), library]
        .into_iter()
        .flatten()
        .find(|path| path.exists())
}

/// Returns this program's file.
pub(crate) fn path() -> Option<&'static Path> {
    BINARY.get()?.as_deref()
}

/// Runs what may run this program anew, with the variable set for it.
///
/// # Safety
///
/// There must be no other thread.
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
