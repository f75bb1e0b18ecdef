//! Changes the limits of an existing container.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref as slice;

use oci_spec::runtime::LinuxResources;

use super::devices::Access;
use super::resources::{Settings, Versions};
use super::setting::{self, Setting};
use super::{Cgroup, CgroupError, v1, v2};

/// What to do about a limit for which this host has no controller or no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lacking {
    Refuse,
    LeaveOut,
}

/// Limits that were changed.
#[derive(Debug, Default)]
pub struct Changed {
    /// The fields, below `linux.resources`, of the limits that this host can't set.
    pub left_out: Vec<String>,
    /// The previous values, by file.
    before: Vec<(PathBuf, String)>,
}

impl Changed {
    /// Restores the previous values, as far as the kernel tells them.
    pub fn undo(self) {
        // As in `apply_all`: one may be possible only after another.
        let mut refused = Vec::new();
        for (file, value) in self.before.into_iter().rev() {
            if setting::write(&file, &value).is_err() {
                refused.push((file, value));
            }
        }
        for (file, value) in refused {
            let _ = setting::write(&file, &value);
        }
    }
}

impl Cgroup {
    /// Changes the limits that `resources` gives, and no others. Device rules, if it has any,
    /// replace the previous ones.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`]. Limits that were changed before the error are restored, as far as the
    /// kernel tells what they were.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let access = match resources.devices().as_deref() {
            None | Some([]) => None,
            Some(rules) => Some(Access::by(rules)?),
        };
        let changed = self.change(resources, Lacking::Refuse)?;
        if let Some(access) = access
            && let Err(error) = self.replace_devices(&access)
        {
            changed.undo();
            return Err(error);
        }
        Ok(())
    }

    /// As [`Cgroup::update`], but for limits that are also enforced elsewhere: those for which this
    /// host has no controller, or no file, are left out. Ignores device rules.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::update`].
    pub fn limit_where_possible(&self, resources: &LinuxResources) -> Result<Changed, CgroupError> {
        self.change(resources, Lacking::LeaveOut)
    }

    fn change(&self, resources: &LinuxResources, lacking: Lacking) -> Result<Changed, CgroupError> {
        let settings = self.settings(resources)?;
        if let Some(memory) = resources.memory()
            && memory.check_before_update() == Some(true)
            && let Some(limit @ 1..) = memory.limit()
        {
            self.check_usage(limit.unsigned_abs())?;
        }
        let mut changed = Changed::default();
        let all = match lacking {
            Lacking::Refuse => self.placed(&settings.v1, &settings.v2)?,
            Lacking::LeaveOut => {
                let v1 = settings.v1.iter().map(|s| (s, self.placed(slice(s), &[])));
                let v2 = settings.v2.iter().map(|s| (s, self.placed(&[], slice(s))));
                let mut all = Vec::new();
                for (setting, placed) in v1.chain(v2) {
                    match placed {
                        Ok(placed) if placed.iter().all(|(path, s)| s.is_there(path)) => {
                            all.extend(placed);
                        }
                        Ok(_) | Err(CgroupError::NoController { .. }) => {
                            changed.left_out.push(setting.field.clone());
                        }
                        Err(error) => return Err(error),
                    }
                }
                all
            }
        };
        let before = all.iter().filter_map(|(path, s)| present(path, s));
        changed.before = before.collect();
        match setting::apply_all(all.into_iter()) {
            Ok(()) => Ok(changed),
            Err(error) => {
                changed.undo();
                Err(error)
            }
        }
    }

    /// Returns the settings with the directories to write them in.
    fn placed<'a>(
        &'a self,
        v1: &'a [Setting],
        v2: &'a [Setting],
    ) -> Result<Vec<(&'a Path, &'a Setting)>, CgroupError> {
        let mut all = v1::with_directories(&self.v1, v1)?;
        if let Some(directory) = &self.v2 {
            all.extend(v2::with_controllers(directory, v2)?);
        }
        Ok(all)
    }

    /// Returns what to write for `resources`, given the present values.
    pub(super) fn settings(&self, resources: &LinuxResources) -> Result<Settings, CgroupError> {
        let versions = Versions::of_cgroup(self);
        match &self.v2 {
            Some(directory) => {
                let resources = v2::with_present(&directory.path, resources)?;
                Settings::new(&resources, &versions)
            }
            None => Settings::new(resources, &versions),
        }
    }

    fn replace_devices(&self, access: &Access) -> Result<(), CgroupError> {
        match (self.v1_with("devices"), &self.v2) {
            (None, Some(directory)) => v2::devices::replace(&directory.path, access),
            _ => self.restrict_devices(access),
        }
    }

    /// Checks the usage for `memory.checkBeforeUpdate`.
    fn check_usage(&self, limit: u64) -> Result<(), CgroupError> {
        let file = match (self.v1_with("memory"), &self.v2) {
            (Some(directory), _) => directory.join("memory.usage_in_bytes"),
            (None, Some(directory)) => directory.path.join("memory.current"),
            (None, None) => return Ok(()),
        };
        let usage = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
        match usage.trim().parse::<u64>() {
            Ok(usage) if usage > limit => Err(CgroupError::Invalid {
                field: "memory.limit".to_owned(),
                value: limit.to_string(),
                expected: "at least what is used now (memory.checkBeforeUpdate)",
            }),
            _ => Ok(()),
        }
    }
}

/// Returns a file with its present content, if that can be written back as it is read: a single
/// value.
fn present(directory: &Path, setting: &Setting) -> Option<(PathBuf, String)> {
    let file = directory.join(&setting.file);
    let text = fs::read_to_string(&file).ok()?;
    let value = text.trim_end();
    let is_value = |b: u8| b.is_ascii_digit() || matches!(b, b'-' | b',' | b' ');
    let max = value.strip_prefix("max").unwrap_or(value);
    max.bytes().all(is_value).then(|| (file, value.to_owned()))
}
