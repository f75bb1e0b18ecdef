//! Converts `linux.resources` to settings, each for the version of cgroups that has its controller.

use oci_spec::runtime::LinuxResources;

use super::layout::Layout;
use super::setting::Setting;
use super::{Cgroup, CgroupError, cpuset, pids, rdma, v1, v2};

/// The version of cgroups that has each controller of a host.
#[derive(Debug)]
pub(super) enum Versions<'a> {
    /// Version 1 has all of them.
    V1,
    /// Version 2 has all of them.
    V2,
    /// Version 1 has these.
    Hybrid(Vec<&'a str>),
}

impl<'a> Versions<'a> {
    /// Returns those of a host's hierarchies.
    pub(super) fn of_layout(layout: &'a Layout) -> Self {
        let hierarchies = layout.v1.iter();
        let controllers = hierarchies.flat_map(|hierarchy| &hierarchy.controllers);
        Self::new(
            controllers.map(String::as_str).collect(),
            layout.v2.is_some(),
        )
    }

    /// Returns those of the hierarchies that a container is in.
    pub(super) fn of_cgroup(cgroup: &'a Cgroup) -> Self {
        let controllers = cgroup.v1.iter().flat_map(|member| &member.controllers);
        Self::new(
            controllers.map(String::as_str).collect(),
            cgroup.v2.is_some(),
        )
    }

    fn new(in_v1: Vec<&'a str>, has_v2: bool) -> Self {
        match (in_v1.is_empty(), has_v2) {
            (true, _) => Versions::V2,
            (false, false) => Versions::V1,
            (false, true) => Versions::Hybrid(in_v1),
        }
    }

    /// Whether a controller, by its name in version 1, is in version 1.
    fn in_v1(&self, controller: &str) -> bool {
        match self {
            Versions::V1 => true,
            Versions::V2 => false,
            Versions::Hybrid(in_v1) => in_v1.contains(&controller),
        }
    }
}

/// Every limit, in writing order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) v1: Vec<Setting>,
    pub(super) v2: Vec<Setting>,
}

impl Settings {
    /// Converts `resources`. `unified` comes last, so that it overrides the others.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Unsupported`] or [`CgroupError::Invalid`], naming the field.
    pub(super) fn new(
        resources: &LinuxResources,
        versions: &Versions<'_>,
    ) -> Result<Self, CgroupError> {
        let mut all = Settings::default();
        if let Some(memory) = resources.memory() {
            if versions.in_v1("memory") {
                all.v1.extend(v1::memory::settings(memory)?)
            } else {
                all.v2.extend(v2::memory::settings(memory)?)
            }
        }
        if let Some(cpu) = resources.cpu() {
            if versions.in_v1("cpu") {
                all.v1.extend(v1::cpu::settings(cpu)?)
            } else {
                all.v2.extend(v2::cpu::settings(cpu)?)
            }
            let lists = cpuset::settings(cpu)?;
            all.with_controller(versions, "cpuset").extend(lists);
        }
        if let Some(pids) = resources.pids() {
            all.with_controller(versions, "pids")
                .push(pids::setting(pids));
        }
        if let Some(block_io) = resources.block_io() {
            if versions.in_v1("blkio") {
                all.v1.extend(v1::blkio::settings(block_io)?)
            } else {
                all.v2.extend(v2::io::settings(block_io)?)
            }
        }
        if let Some(limits) = resources.hugepage_limits() {
            if versions.in_v1("hugetlb") {
                all.v1.extend(v1::hugetlb::settings(limits)?)
            } else {
                all.v2.extend(v2::hugetlb::settings(limits)?)
            }
        }
        if let Some(network) = resources.network() {
            all.v1.extend(v1::network::settings(network, |controller| {
                versions.in_v1(controller)
            })?);
        }
        if let Some(limits) = resources.rdma() {
            all.with_controller(versions, "rdma")
                .extend(rdma::settings(limits)?);
        }
        if let Some(unified) = resources.unified()
            && !unified.is_empty()
        {
            if matches!(versions, Versions::V1) {
                return Err(CgroupError::unsupported(
                    "unified",
                    "it is for cgroup v2, and this host has only version 1",
                ));
            }
            all.v2.extend(v2::unified::settings(unified)?);
        }
        Ok(all)
    }

    /// Returns the settings of the version that has a controller.
    fn with_controller(&mut self, versions: &Versions<'_>, controller: &str) -> &mut Vec<Setting> {
        if versions.in_v1(controller) {
            &mut self.v1
        } else {
            &mut self.v2
        }
    }
}
