//! Parses `mounts[].uidMappings`, `gidMappings` and the options `idmap` and `ridmap`.

use oci_spec::runtime::{Linux, LinuxIdMapping, Mount};

use super::error::ConfigError;
use super::id_map;
use super::mount_options::MountOptions;
use crate::container::kernel::mount_calls::Extent;

/// How the ids on a mount are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountIds {
    /// Which mounts they are mapped on.
    pub(crate) extent: Extent,
    /// Both are empty to use those of the container's user namespace.
    pub(crate) uids: Vec<LinuxIdMapping>,
    pub(crate) gids: Vec<LinuxIdMapping>,
}

impl MountIds {
    /// Returns what the bind mount `mounts[index]` asks for, if it asks for mapped ids.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`], for what [`validate`](super::config::validate) would refuse.
    pub fn of_mount(
        index: usize,
        mount: &Mount,
        linux: &Linux,
    ) -> Result<Option<Self>, ConfigError> {
        let options = mount.options().as_deref().unwrap_or_default();
        let option = MountOptions::parse(options, true)
            .map_err(|e| ConfigError::invalid(format!("mounts[{index}].options"), e.to_string()))?
            .id_mapped;
        let Some(asked) = Self::parse(index, mount, option)? else {
            return Ok(None);
        };
        let mappings = asked.mappings(linux);
        let [uids, gids] = mappings.ok_or_else(|| no_mappings(index))?;
        Ok(Some(MountIds {
            extent: asked.extent,
            uids: uids.to_vec(),
            gids: gids.to_vec(),
        }))
    }

    /// Parses what `mounts[index]` asks for; `option` is that of `idmap` or `ridmap`.
    pub(crate) fn parse(
        index: usize,
        mount: &Mount,
        option: Option<Extent>,
    ) -> Result<Option<Self>, ConfigError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let given = |mappings: &Option<Vec<LinuxIdMapping>>| mappings.clone().unwrap_or_default();
        let (uids, gids) = (given(mount.uid_mappings()), given(mount.gid_mappings()));
        if uids.is_empty() != gids.is_empty() {
            let missing = if uids.is_empty() {
                "uidMappings"
            } else {
                "gidMappings"
            };
            return Err(ConfigError::missing(field(missing)));
        }
        if uids.is_empty() && option.is_none() {
            return Ok(None);
        }
        id_map::validate_ranges(&field("uidMappings"), &uids)?;
        id_map::validate_ranges(&field("gidMappings"), &gids)?;
        Ok(Some(MountIds {
            extent: option.unwrap_or(Extent::Mount),
            uids,
            gids,
        }))
    }

    /// Returns the mappings to use: the mount's own, or the container's.
    pub(crate) fn mappings<'a>(&'a self, linux: &'a Linux) -> Option<[&'a [LinuxIdMapping]; 2]> {
        if !self.uids.is_empty() {
            return Some([&self.uids, &self.gids]);
        }
        // That namespace has its own mappings.
        if id_map::joins_user_namespace(linux) {
            return None;
        }
        let both = [linux.uid_mappings(), linux.gid_mappings()];
        let both = both.map(|mappings| mappings.as_deref().unwrap_or_default());
        both.iter().all(|m| !m.is_empty()).then_some(both)
    }

    /// Checks that there are mappings.
    pub(crate) fn validate(&self, index: usize, linux: &Linux) -> Result<(), ConfigError> {
        if self.mappings(linux).is_some() || id_map::joins_user_namespace(linux) {
            Ok(())
        } else {
            Err(no_mappings(index))
        }
    }
}

fn no_mappings(index: usize) -> ConfigError {
    let problem = "ids can be mapped only by the mount's own uidMappings and gidMappings, or those \
                   of the container's user namespace";
    ConfigError::invalid(format!("mounts[{index}].options"), problem)
}
