//! `linux.resources.unified`: values for files of cgroup v2, by their names.

use std::collections::HashMap;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::Setting;

/// The kernel takes at most a page.
const MAX_VALUE: usize = 4095;

/// Returns the settings, sorted by name, so that the first error doesn't depend on the map's order.
pub(in crate::container::cgroups) fn settings(
    unified: &HashMap<String, String>,
) -> Result<Vec<Setting>, CgroupError> {
    let mut files: Vec<_> = unified.iter().collect();
    files.sort_unstable();
    let mut settings = Vec::new();
    for (file, value) in files {
        let field = format!("unified.{file}");
        if !is_file_name(file) {
            let expected = "the name of a file in a cgroup";
            return Err(CgroupError::invalid(
                "unified",
                format!("{file:?}"),
                expected,
            ));
        }
        // The engine's own business: the cgroup's processes and the cgroups below it.
        if file.starts_with("cgroup.")
            && !matches!(file.as_str(), "cgroup.max.depth" | "cgroup.max.descendants")
        {
            return Err(CgroupError::unsupported(field, "it is no limit"));
        }
        if value.len() > MAX_VALUE {
            let size = format!("a value of {} bytes", value.len());
            return Err(CgroupError::invalid(field, size, "at most 4095 bytes"));
        }
        settings.push(Setting::new(&field, file, value));
    }
    Ok(settings)
}

/// Whether a name is `<controller>.<rest>` and can't lead elsewhere.
fn is_file_name(name: &str) -> bool {
    name.len() <= 255
        && name.split('.').count() > 1
        && name.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unified(file: &str, value: &str) -> Result<Vec<Setting>, CgroupError> {
        settings(&HashMap::from([(file.to_owned(), value.to_owned())]))
    }

    #[test]
    fn values_are_written_as_they_are() {
        let got = unified("memory.high", "1048576").unwrap();
        let expected = Setting::new("unified.memory.high", "memory.high", "1048576");
        assert_eq!(got, [expected]);
        unified("hugetlb.2MB.max", "0").unwrap();
        unified("cgroup.max.depth", "1").unwrap();
        assert_eq!(unified("io.max", &"x".repeat(4095)).unwrap().len(), 1);
    }

    #[test]
    fn no_other_file_can_be_named() {
        for file in [
            "",
            ".",
            "..",
            "memory",
            "memory.",
            "../memory.max",
            "a/memory.max",
            "/proc/sys.x",
            "memory..max",
            "memory.max\n",
            "memory.max\0",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.kill",
            "cgroup.type",
        ] {
            unified(file, "1").expect_err(file);
        }
        unified("io.max", &"x".repeat(4096)).unwrap_err();
    }
}
