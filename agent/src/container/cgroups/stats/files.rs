//! Reads the files in which cgroups report usage.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::keyed;
use crate::stats::Pids;

/// The files of a cgroup's directory.
pub(super) struct Files<'a>(pub(super) &'a Path);

impl Files<'_> {
    /// Returns a file's text; `None` if it doesn't exist.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, CgroupError> {
        let file = self.0.join(name);
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            // Not counted on this host (`CONFIG_PSI_DEFAULT_DISABLED` and the like).
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(e) => Err(CgroupError::directory("read", &file)(e)),
        }
    }

    /// Returns a file's number; 0 if the file doesn't exist.
    pub(super) fn number(&self, name: &str) -> Result<u64, CgroupError> {
        let text = self.text(name)?.unwrap_or_default();
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// Returns a file's number, or `max` for the text "max".
    pub(super) fn limit(&self, name: &str, max: u64) -> Result<u64, CgroupError> {
        let text = self.text(name)?.unwrap_or_default();
        Ok(match text.trim() {
            "max" => max,
            number => number.parse().unwrap_or(0),
        })
    }

    /// Returns the parts between `before` and `after` of the files' names: page sizes.
    pub(super) fn between(&self, before: &str, after: &str) -> Result<Vec<String>, CgroupError> {
        let entries = fs::read_dir(self.0).map_err(CgroupError::directory("list", self.0))?;
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_prefix(before)?.strip_suffix(after)?;
            (!name.contains('.')).then(|| name.to_owned())
        });
        Ok(names.collect())
    }

    /// Returns the pids controller's part, for both versions.
    pub(super) fn pids(&self) -> Result<Pids, CgroupError> {
        Ok(Pids {
            current: self.number("pids.current")?,
            limit: self.limit("pids.max", 0)?,
        })
    }
}

/// Parses lines of a key and a number.
pub(super) fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        })
        .collect()
}

pub(super) fn value(text: &str, key: &str) -> u64 {
    keyed(text, key).unwrap_or(0)
}

/// Parses `major:minor`.
pub(super) fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    pub(in super::super) fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }
}
