//! `linux.resources` as settings, each for the version of cgroups that has its controller.

use oci_spec::runtime::LinuxResources;

use super::layout::Layout;
use super::setting::Setting;
use super::{Cgroup, CgroupError, pids, rdma, v1, v2};

/// In which version of cgroups a host's controllers are.
#[derive(Debug)]
pub(super) struct Versions<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    V1,
    V2,
    /// Version 1 for those that have a hierarchy there.
    Hybrid(&'a Layout),
    /// The same, by what a container is in.
    HybridCgroup(&'a Cgroup),
}

impl<'a> Versions<'a> {
    pub(super) fn all_v1() -> Self {
        Versions(Kind::V1)
    }

    pub(super) fn all_v2() -> Self {
        Versions(Kind::V2)
    }

    pub(super) fn of(layout: &'a Layout) -> Self {
        Versions(match (layout.v1.is_empty(), &layout.v2) {
            (true, _) => Kind::V2,
            (false, None) => Kind::V1,
            (false, Some(_)) => Kind::Hybrid(layout),
        })
    }

    pub(super) fn of_cgroup(cgroup: &'a Cgroup) -> Self {
        Versions(match (cgroup.v1.is_empty(), &cgroup.v2) {
            (true, _) => Kind::V2,
            (false, None) => Kind::V1,
            (false, Some(_)) => Kind::HybridCgroup(cgroup),
        })
    }

    /// Whether a controller, by its name in version 1, is in that.
    fn in_v1(&self, controller: &str) -> bool {
        match self.0 {
            Kind::V1 => true,
            Kind::V2 => false,
            Kind::Hybrid(layout) => layout.v1_with(controller).is_some(),
            Kind::HybridCgroup(cgroup) => cgroup.v1_with(controller).is_some(),
        }
    }
}

/// Every limit, in the order to write them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) v1: Vec<Setting>,
    pub(super) v2: Vec<Setting>,
}

impl Settings {
    /// `unified` comes last: it has the last word.
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
            match versions.in_v1("memory") {
                true => all.v1.extend(v1::memory::settings(memory)?),
                false => all.v2.extend(v2::memory::settings(memory)?),
            }
        }
        if let Some(cpu) = resources.cpu() {
            match versions.in_v1("cpu") {
                true => all.v1.extend(v1::cpu::settings(cpu)?),
                false => all.v2.extend(v2::cpu::settings(cpu)?),
            }
            let lists = super::cpu_list::settings(cpu)?;
            all.of(versions, "cpuset").extend(lists);
        }
        if let Some(pids) = resources.pids() {
            all.of(versions, "pids").push(pids::setting(pids));
        }
        if let Some(block_io) = resources.block_io() {
            match versions.in_v1("blkio") {
                true => all.v1.extend(v1::blkio::settings(block_io)?),
                false => all.v2.extend(v2::io::settings(block_io)?),
            }
        }
        if let Some(limits) = resources.hugepage_limits() {
            match versions.in_v1("hugetlb") {
                true => all.v1.extend(v1::hugetlb::settings(limits)?),
                false => all.v2.extend(v2::hugetlb::settings(limits)?),
            }
        }
        if let Some(network) = resources.network() {
            all.v1.extend(v1::network::settings(network, |controller| {
                versions.in_v1(controller)
            })?);
        }
        if let Some(limits) = resources.rdma() {
            all.of(versions, "rdma").extend(rdma::settings(limits)?);
        }
        if let Some(unified) = resources.unified()
            && !unified.is_empty()
        {
            if let Kind::V1 = versions.0 {
                return Err(CgroupError::unsupported(
                    "unified",
                    "it is for cgroup v2, and this host has only version 1",
                ));
            }
            all.v2.extend(v2::unified::settings(unified)?);
        }
        Ok(all)
    }

    /// Those of the version that a controller is in.
    fn of(&mut self, versions: &Versions<'_>, controller: &str) -> &mut Vec<Setting> {
        match versions.in_v1(controller) {
            true => &mut self.v1,
            false => &mut self.v2,
        }
    }
}
