//! `linux.cgroupsPath`.

use std::path::{Component, Path, PathBuf};

use super::CgroupError;

/// Returns the cgroup that `cgroups_path` names: the path itself, which is from the hierarchy's
/// root if it is absolute and from this process's own cgroup otherwise, or what systemd would make
/// of `slice:prefix:name`, which Podman and Docker give where systemd manages the host's cgroups.
/// Without a path, it is one of the container's id in this process's own.
///
/// # Errors
///
/// [`CgroupError::Path`] for one that leads out of the hierarchy or can't be a directory's name.
pub fn cgroup_path(cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf, CgroupError> {
    let Some(given) = cgroups_path else {
        return checked(Path::new(id), Path::new(id));
    };
    let text = given
        .to_str()
        .ok_or_else(|| error(given, "it isn't UTF-8"))?;
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [slice, prefix, name] if !text.contains('/') => {
            let relative = checked(given, &systemd_path(given, slice, prefix, name)?)?;
            Ok(Path::new("/").join(relative))
        }
        _ => {
            let relative = checked(given, given)?;
            Ok(if given.is_absolute() {
                Path::new("/").join(relative)
            } else {
                relative
            })
        }
    }
}

fn error(path: &Path, reason: &'static str) -> CgroupError {
    CgroupError::Path {
        path: path.to_owned(),
        reason,
    }
}

/// Returns a path without its root, which only leads down.
pub(super) fn checked(given: &Path, path: &Path) -> Result<PathBuf, CgroupError> {
    match below(given, path)? {
        relative if relative.as_os_str().is_empty() => {
            Err(error(given, "it names the root cgroup"))
        }
        relative => Ok(relative),
    }
}

/// As [`checked`], but the result may be empty.
pub(super) fn below(given: &Path, path: &Path) -> Result<PathBuf, CgroupError> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                let name = name.as_encoded_bytes();
                if name.len() > 255 {
                    return Err(error(given, "a component is over 255 bytes"));
                }
                if name.iter().any(u8::is_ascii_control) {
                    return Err(error(given, "it has a control character"));
                }
                relative.push(component);
            }
            _ => return Err(error(given, "it has a `..`")),
        }
    }
    match relative.as_os_str().len() {
        0..=3072 => Ok(relative),
        _ => Err(error(given, "it is over 3072 bytes")),
    }
}

/// Returns the path of a unit: `a-b.slice` is in `a.slice`, and a scope in its slice
/// (systemd.slice(5), systemd.scope(5)).
fn systemd_path(
    given: &Path,
    slice: &str,
    prefix: &str,
    name: &str,
) -> Result<PathBuf, CgroupError> {
    if name.is_empty() {
        return Err(error(given, "it has no name"));
    }
    let mut path = PathBuf::new();
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let stem = slice
        .strip_suffix(".slice")
        .ok_or_else(|| error(given, "its slice doesn't end in .slice"))?;
    // "-.slice" is the root.
    if stem != "-" {
        let mut parent = String::new();
        for part in stem.split('-') {
            if part.is_empty() {
                return Err(error(given, "its slice has an empty part"));
            }
            parent.push_str(part);
            path.push(format!("{parent}.slice"));
            parent.push('-');
        }
    }
    path.push(match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    });
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_or_from_the_own_cgroup() {
        for (given, expected) in [
            (None, "web"),
            (Some("/a/./b"), "/a/b"),
            (Some("a//b/./c/"), "a/b/c"),
            (
                Some("machine.slice:libpod:1f"),
                "/machine.slice/libpod-1f.scope",
            ),
            (Some(":docker:1f"), "/system.slice/docker-1f.scope"),
            (
                Some("user-1000.slice:x:1f"),
                "/user.slice/user-1000.slice/x-1f.scope",
            ),
            (Some("-.slice::1f"), "/1f.scope"),
            (Some("a:b"), "a:b"),
            (Some("/a:b:c"), "/a:b:c"),
        ] {
            let got = cgroup_path(given.map(Path::new), "web").unwrap();
            assert_eq!(got, Path::new(expected), "{given:?}");
        }
    }

    #[test]
    fn a_path_can_t_lead_elsewhere() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(2000);
        for given in [
            "",
            "/",
            ".",
            "..",
            "a/../..",
            "/..",
            "a\nb",
            &long,
            &deep,
            "a::b",
            "a.slice:b:",
            "a--b.slice:c:d",
        ] {
            cgroup_path(Some(Path::new(given)), "web").expect_err(given);
        }
    }
}
