//! Changing the limits of a container that is there.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::devices::Access;
use super::resources::{Settings, Versions};
use super::setting::{self, Setting};
use super::{Cgroup, CgroupError, v1, v2};

impl Cgroup {
    /// Changes the limits that `resources` gives, and no other. Device rules, if it has some,
    /// replace those that were there.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`]. Limits that had been changed by then are changed back, as far as
    /// the kernel tells what they were.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let settings = self.settings(resources)?;
        let access = match resources.devices().as_deref() {
            None | Some([]) => None,
            Some(rules) => Some(Access::by(rules)?),
        };
        if let Some(memory) = resources.memory()
            && memory.check_before_update() == Some(true)
            && let Some(limit @ 1..) = memory.limit()
        {
            self.check_usage(limit.unsigned_abs())?;
        }
        let mut all = v1::with_directories(&self.v1, &settings.v1)?;
        if let Some(directory) = &self.v2 {
            all.extend(v2::with_controllers(directory, &settings.v2)?);
        }
        let before: Vec<_> = all.iter().map(|(path, s)| present(path, s)).collect();
        let changed = setting::apply_all(all.iter().copied())
            .and_then(|()| access.map_or(Ok(()), |access| self.replace_devices(&access)));
        if changed.is_err() {
            for ((path, setting), before) in all.iter().zip(before).rev() {
                if let Some(before) = before {
                    let _ = setting::write(&path.join(&setting.file), &before);
                }
            }
        }
        changed
    }

    /// What to write for `resources`, given what is there.
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

    /// `memory.checkBeforeUpdate`.
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

/// What a file holds, if it is one that can be written as it is read: with a single value.
fn present(directory: &Path, setting: &Setting) -> Option<String> {
    let text = fs::read_to_string(directory.join(&setting.file)).ok()?;
    let value = text.trim_end();
    let is_value = |b: u8| b.is_ascii_digit() || matches!(b, b'-' | b',' | b' ');
    let max = value.strip_prefix("max").unwrap_or(value);
    max.bytes().all(is_value).then(|| value.to_owned())
}
