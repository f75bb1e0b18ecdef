//! The hooks that run in the guest: `createContainer`, whose programs are the host's, and
//! `startContainer`, whose programs are the container's. The others run on the host.
//!
//! A guest has nothing of the host but what is shared with it. So a program of the first kind is
//! shared by itself, as `hooks/N`, and must need no other file: neither libraries nor an
//! interpreter.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nacre_agent::protocol::SHARE;
use oci_spec::runtime::{Hook, Hooks, Spec};

use super::{
    file_systems::{self, NotServed},
    source::{Origin, Source},
};

/// Why a hook can't be run in a guest.
#[derive(Debug, thiserror::Error)]
#[error("hooks.createContainer[{index}].path: {path}: {problem}")]
pub(crate) struct GuestHookError {
    index: usize,
    path: PathBuf,
    problem: HookProblem,
}

#[derive(Debug, thiserror::Error)]
enum HookProblem {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("it isn't a file")]
    NotAFile,
    #[error("it is in a file system of the type {0}, which a VM isn't given")]
    NotServed(NotServed),
    #[error(
        "it can't be run in a VM's guest, which doesn't have its interpreter: a program that is \
         linked statically can"
    )]
    NotSelfContained,
}

/// Leaves in `spec` the hooks to be run in the guest. Returns their programs, of which the Nth is
/// `hooks/N`.
pub(super) fn take(spec: &mut Spec) -> Result<Vec<Source>, GuestHookError> {
    let Some(hooks) = spec.hooks().clone() else {
        return Ok(Vec::new());
    };
    let mut programs = Vec::new();
    let mut create = Vec::new();
    for (index, hook) in hooks.create_container().iter().flatten().enumerate() {
        let failed = |problem| GuestHookError {
            index,
            path: hook.path().clone(),
            problem,
        };
        let path = program(hook.path()).map_err(failed)?;
        create.push(moved(hook, &format!("hooks/{index}")));
        programs.push(Source {
            origin: Origin::Path(path),
            is_directory: false,
            recursive: false,
            options: vec!["ro".to_owned()],
            ids: None,
        });
    }
    let mut guests = Hooks::default();
    guests
        .set_create_container(Some(create))
        .set_start_container(hooks.start_container().clone());
    spec.set_hooks(Some(guests));
    Ok(programs)
}

/// Moves a hook's program to a place in the share, which the program isn't told.
fn moved(hook: &Hook, place: &str) -> Hook {
    let mut moved = hook.clone();
    if hook.args().as_ref().is_none_or(Vec::is_empty) {
        let name = hook.path().to_string_lossy().into_owned();
        moved.set_args(Some(vec![name]));
    }
    moved.set_path(Path::new(SHARE).join(place));
    moved
}

/// Finds a program that needs no other file.
fn program(path: &Path) -> Result<PathBuf, HookProblem> {
    let path = fs::canonicalize(path)?;
    // Not a FIFO, whose opening would block.
    if !fs::metadata(&path)?.is_file() {
        return Err(HookProblem::NotAFile);
    }
    if let Some(kind) = file_systems::not_served_at(&path)? {
        return Err(HookProblem::NotServed(kind));
    }
    if needs_interpreter(&File::open(&path)?)? {
        Err(HookProblem::NotSelfContained)
    } else {
        Ok(path)
    }
}

/// Whether a program is a script, or an ELF file with a dynamic linker (elf(5), `PT_INTERP`).
/// Anything else is for the guest's kernel to judge.
fn needs_interpreter(file: &File) -> io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let mut header = Vec::new();
    file.take(64).read_to_end(&mut header)?;
    if header.starts_with(b"#!") {
        return Ok(true);
    }
    let (Some(b"\x7fELF"), Ok(header)) = (header.get(..4), <[u8; 64]>::try_from(&*header)) else {
        return Ok(false);
    };
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[32..40]);
    let (start, size, count) = (u64::from_le_bytes(offset), half(54), half(56));
    for index in 0..count {
        let mut kind = [0; 4];
        let at = start.saturating_add(index * size);
        match file.read_exact_at(&mut kind, at) {
            Ok(()) if u32::from_le_bytes(kind) == PT_INTERP => return Ok(true),
            Ok(()) => {}
            // The second is for what lies beyond any file's end.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
            Err(e) if e.kind() == ErrorKind::InvalidInput => break,
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_programs_that_need_nothing_else_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        fs::write(place("script"), "#!/bin/sh\n").unwrap();
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        fs::write(place("static"), &elf).unwrap();
        elf[64 + 56] = 3;
        fs::write(place("dynamic"), &elf).unwrap();
        // More headers than the file has, and an offset that no file has.
        elf[64 + 56] = 0;
        elf[57] = 0xff;
        fs::write(place("cut"), &elf).unwrap();
        elf[32..40].fill(0xff);
        fs::write(place("nowhere"), &elf).unwrap();
        fs::write(place("short"), b"\x7fELF").unwrap();
        for name in ["static", "cut", "nowhere", "short"] {
            assert!(program(&place(name)).is_ok(), "{name}");
        }
        for name in ["script", "dynamic", "missing", "."] {
            assert!(program(&place(name)).is_err(), "{name}");
        }
        let refused = program(Path::new("/proc/self/status")).unwrap_err();
        assert!(matches!(refused, HookProblem::NotServed(_)), "{refused}");
    }

    #[test]
    fn the_guest_gets_its_own_hooks_alone() {
        let program = tempfile::NamedTempFile::new().unwrap();
        let hook = |args| json!([{ "path": program.path(), "args": args, "env": ["A=b"] }]);
        let mut spec = Spec::default();
        let hooks = json!({
            "prestart": hook(json!(["x"])),
            "createRuntime": hook(json!(["x"])),
            "createContainer": hook(json!([])),
            "startContainer": [{ "path": "/in/the/container" }],
            "poststop": hook(json!(["x"])),
        });
        spec.set_hooks(serde_json::from_value(hooks).unwrap());
        let programs = take(&mut spec).unwrap();
        assert_eq!(programs.len(), 1);
        assert!(programs[0].options == ["ro"] && !programs[0].is_directory);
        let left = serde_json::to_value(spec.hooks()).unwrap();
        let path = program.path().to_str().unwrap();
        let expected = json!({
            "createContainer": [
                { "path": "/run/nacre/share/hooks/0", "args": [path], "env": ["A=b"] },
            ],
            "startContainer": [{ "path": "/in/the/container" }],
        });
        assert_eq!(left, expected);
    }
}
