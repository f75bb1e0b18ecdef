//! A limit, and how it is written to a cgroup's file.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use super::CgroupError;

/// A limit as the kernel takes it: what to write to which file of the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The field of `linux.resources` that asks for it, to name in errors.
    pub(super) field: String,
    pub(super) file: String,
    pub(super) value: String,
    pub(super) if_missing: IfMissing,
    /// The number that the file must read afterwards, for one that the kernel may take without
    /// honouring it.
    pub(super) read_back: Option<u64>,
}

/// What it means if the kernel lacks a [`Setting`]'s file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// The limit can't be enforced.
    Refuse,
    /// The limit holds anyway.
    Skip,
    /// The limit holds anyway if the kernel was built without swap.
    SkipWithoutSwap,
    /// Another file does the same.
    Instead { file: &'static str, value: String },
}

impl Setting {
    pub(super) fn new(field: &str, file: impl Into<String>, value: impl ToString) -> Self {
        Setting {
            field: field.to_owned(),
            file: file.into(),
            value: value.to_string(),
            if_missing: IfMissing::Refuse,
            read_back: None,
        }
    }

    pub(super) fn if_missing(self, if_missing: IfMissing) -> Self {
        Setting { if_missing, ..self }
    }

    pub(super) fn read_back(self, expected: u64) -> Self {
        Setting {
            read_back: Some(expected),
            ..self
        }
    }

    /// Returns the controller that the file belongs to; `None` for the files of every cgroup.
    pub(super) fn controller(&self) -> Option<&str> {
        match self.file.split('.').next() {
            Some("cgroup") | None => None,
            other => other,
        }
    }

    /// Whether a cgroup has the file, or the limit holds without it.
    pub(super) fn is_there(&self, directory: &Path) -> bool {
        let has = |file: &str| directory.join(file).exists();
        has(&self.file)
            || match &self.if_missing {
                IfMissing::Refuse => false,
                IfMissing::Skip => true,
                IfMissing::SkipWithoutSwap => !Path::new("/proc/swaps").exists(),
                IfMissing::Instead { file, .. } => has(file),
            }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NoFile`] or [`CgroupError::Write`].
    pub(super) fn apply(&self, directory: &Path) -> Result<(), CgroupError> {
        let no_file = || CgroupError::NoFile {
            field: self.field.clone(),
            file: self.file.clone(),
        };
        let (mut file, mut value) = (self.file.as_str(), self.value.as_str());
        let mut written = write(&directory.join(file), value);
        if matches!(&written, Err(e) if e.kind() == ErrorKind::NotFound) {
            match &self.if_missing {
                IfMissing::Skip => return Ok(()),
                // The kernel has this file exactly when it was built with swap.
                IfMissing::SkipWithoutSwap if !Path::new("/proc/swaps").exists() => return Ok(()),
                IfMissing::Refuse | IfMissing::SkipWithoutSwap => return Err(no_file()),
                IfMissing::Instead {
                    file: other,
                    value: converted,
                } => {
                    (file, value) = (other, converted);
                    written = write(&directory.join(file), value);
                }
            }
        }
        written.map_err(|source| match source.kind() {
            ErrorKind::NotFound => no_file(),
            _ => CgroupError::Write {
                field: self.field.clone(),
                file: file.to_owned(),
                value: value.to_owned(),
                source,
            },
        })?;
        self.check(&directory.join(file))
    }

    fn check(&self, file: &Path) -> Result<(), CgroupError> {
        let Some(expected) = self.read_back else {
            return Ok(());
        };
        let now = read(file).map_err(CgroupError::directory("read", file))?;
        match now.trim().parse::<u64>() {
            Ok(now) if expected == now => Ok(()),
            _ => Err(CgroupError::NotHonoured {
                field: self.field.clone(),
                file: self.file.clone(),
                value: self.value.clone(),
                now: now.trim().to_owned(),
            }),
        }
    }
}

/// Writes all of them. A limit that the kernel refuses may be possible after another: a memory
/// limit above the present one on memory and swap, say. So refused ones are tried again at the end.
pub(super) fn apply_all<'a>(
    settings: impl Iterator<Item = (&'a Path, &'a Setting)>,
) -> Result<(), CgroupError> {
    let mut refused = Vec::new();
    for (directory, setting) in settings {
        match setting.apply(directory) {
            Err(CgroupError::Write { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EINVAL | libc::EBUSY | libc::ERANGE)
                ) =>
            {
                refused.push((directory, setting));
            }
            other => other?,
        }
    }
    for (directory, setting) in refused {
        setting.apply(directory)?;
    }
    Ok(())
}

/// Writes to an existing file in one call: the kernel takes each write as a whole value.
pub(super) fn write(file: &Path, value: &str) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(file)?;
    file.write_all(value.as_bytes())
}

/// Reads a cgroup's file of one value, which the kernel returns in one call if it fits.
pub(super) fn read(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let mut text = vec![0; 4096];
    let length = file.read(&mut text)?;
    text.truncate(length);
    if length == 4096 {
        file.read_to_end(&mut text)?;
    }
    String::from_utf8(text).map_err(|_| ErrorKind::InvalidData.into())
}

/// Returns the number after `key` in a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|value| value.parse().ok())
}

/// Code that the controllers' tests share.
#[cfg(test)]
pub(super) mod testing {
    use std::fmt::Display;

    use serde::de::DeserializeOwned;

    use super::Setting;

    /// The files of a cgroup and what is written to them, in order; or the error's message.
    pub(in super::super) type Written = Result<Vec<(String, String)>, String>;

    /// Returns what a controller's `settings` make of its part of `linux.resources`.
    pub(in super::super) fn written<T: DeserializeOwned, E: Display>(
        json: &str,
        settings: impl FnOnce(&T) -> Result<Vec<Setting>, E>,
    ) -> Written {
        settings(&serde_json::from_str(json).unwrap())
            .map(|settings| settings.into_iter().map(|s| (s.file, s.value)).collect())
            .map_err(|e| e.to_string())
    }

    /// Fails unless each JSON text gives the value beside it.
    #[track_caller]
    pub(in super::super) fn expect_each(
        cases: &[(&str, &[(&str, &str)])],
        written: impl Fn(&str) -> Written,
    ) {
        for (json, expected) in cases {
            let got = written(json).unwrap();
            let got: Vec<_> = got.iter().map(|(f, v)| (f.as_str(), v.as_str())).collect();
            assert_eq!(&got, expected, "{json}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_file_means_what_its_setting_says() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("io.weight"), "").unwrap();
        let weight = Setting::new("f", "io.bfq.weight", 10).if_missing(IfMissing::Instead {
            file: "io.weight",
            value: "1".to_owned(),
        });
        weight.apply(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(at("io.weight")).unwrap(), "1");
        let skipped = Setting::new("f", "memory.swap.max", "max").if_missing(IfMissing::Skip);
        skipped.apply(directory.path()).unwrap();
        let error = Setting::new("f", "pids.max", 1).apply(directory.path());
        assert!(matches!(error, Err(CgroupError::NoFile { .. })));
    }

    #[test]
    fn a_limit_that_is_taken_but_not_honoured_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.limit"), "").unwrap();
        let setting = Setting::new("f", "a.limit", 4097);
        setting
            .clone()
            .read_back(4097)
            .apply(directory.path())
            .unwrap();
        let error = setting.read_back(4096).apply(directory.path());
        assert!(matches!(error, Err(CgroupError::NotHonoured { .. })));
    }

    /// A memory limit must never exceed the one on memory and swap.
    #[test]
    fn what_is_refused_at_first_is_tried_again_after_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        // A directory can't be written, in any order: the error is that of the second try.
        fs::create_dir(directory.path().join("b.limit")).unwrap();
        fs::write(directory.path().join("a.limit"), "").unwrap();
        let settings = [
            Setting::new("b", "b.limit", 1),
            Setting::new("a", "a.limit", 2),
        ];
        let all = settings.iter().map(|setting| (directory.path(), setting));
        let error = apply_all(all).unwrap_err();
        assert!(matches!(&error, CgroupError::Write { field, .. } if field == "b"));
    }

    #[test]
    fn keys_are_whole_words() {
        let events = "oom 3\noom_kill 2\n";
        assert_eq!(keyed(events, "oom_kill"), Some(2));
        assert_eq!(keyed(events, "oom"), Some(3));
        assert_eq!(keyed(events, "oom_"), None);
    }
}
