//! The annotations of `config.json` that are nacre's own: `dev.nacre.*`.

use std::collections::HashMap;

use crate::isolation::{Isolation, vm::hypervisor::Hypervisor};

use super::{rootfs, size::Bytes};

/// The annotation that chooses the isolation.
pub(crate) const ISOLATION: &str = "dev.nacre.isolation";
/// The annotation that chooses what runs the VM.
pub(crate) const HYPERVISOR: &str = "dev.nacre.vm.hypervisor";
/// The annotation with the VM's number of vCPUs.
pub(crate) const CPUS: &str = "dev.nacre.vm.cpus";
/// The annotation with the VM's memory.
pub(crate) const MEMORY: &str = "dev.nacre.vm.memory";
/// The annotation that says whether the container can make VMs of its own.
pub(crate) const NESTED: &str = "dev.nacre.vm.nested";

/// The annotation that says what is done with a VM's container's root.
pub(crate) const ROOTFS: &str = "dev.nacre.vm.rootfs";
/// The annotation with the size of the disk for what is written over the root.
pub(crate) const ROOTFS_DISK: &str = "dev.nacre.vm.rootfs.disk";
/// The annotation with the most guest memory for what is written over the root.
pub(crate) const ROOTFS_MEMORY: &str = "dev.nacre.vm.rootfs.memory";

/// What is expected of a size.
const A_SIZE: &str = "a size: bytes, or with K, M, G or T at the end";

const PREFIX: &str = "dev.nacre.";

/// What a container's annotations say to nacre.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) hypervisor: Option<Hypervisor>,
    pub(crate) cpus: Option<u32>,
    pub(crate) memory: Option<Bytes>,
    pub(crate) nested: Option<bool>,
    pub(crate) rootfs: Option<rootfs::Kind>,
    pub(crate) rootfs_disk: Option<Bytes>,
    pub(crate) rootfs_memory: Option<Bytes>,
}

/// Why the annotations can't be honoured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnotationError {
    #[error(
        "annotations: {0:?} isn't known; {ISOLATION}, {HYPERVISOR}, {CPUS}, {MEMORY}, {NESTED}, \
         {ROOTFS}, {ROOTFS_DISK} and {ROOTFS_MEMORY} are"
    )]
    Unknown(String),
    #[error("annotations.{name}: {value:?} isn't {expected}")]
    Value {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
}

impl Annotations {
    /// Reads what is nacre's and ignores the rest, as the OCI runtime spec has it; what begins
    /// like nacre's own but isn't known is refused, so that a slip of the pen isn't ignored.
    pub(crate) fn parse(
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self, AnnotationError> {
        let mut parsed = Self::default();
        for (name, value) in annotations.into_iter().flatten() {
            let wrong = |name, expected| AnnotationError::Value {
                name,
                value: value.clone(),
                expected,
            };
            let size = |name| value.parse().map_err(|_| wrong(name, A_SIZE));
            match name.as_str() {
                ISOLATION => {
                    let isolation = Isolation::from_name(value)
                        .ok_or_else(|| wrong(ISOLATION, "an isolation: vm, process"))?;
                    parsed.isolation = Some(isolation);
                }
                HYPERVISOR => {
                    let hypervisor = Hypervisor::from_name(value)
                        .ok_or_else(|| wrong(HYPERVISOR, "a hypervisor: kvm, qemu"))?;
                    parsed.hypervisor = Some(hypervisor);
                }
                CPUS => {
                    let cpus = value
                        .parse()
                        .map_err(|_| wrong(CPUS, "a number of vCPUs"))?;
                    parsed.cpus = Some(cpus);
                }
                MEMORY => parsed.memory = Some(size(MEMORY)?),
                NESTED => {
                    let nested = value
                        .parse()
                        .map_err(|_| wrong(NESTED, "\"true\" or \"false\""))?;
                    parsed.nested = Some(nested);
                }
                ROOTFS => {
                    let kind = rootfs::Kind::from_name(value)
                        .ok_or_else(|| wrong(ROOTFS, "a kind of root: shared, overlay"))?;
                    parsed.rootfs = Some(kind);
                }
                ROOTFS_DISK => parsed.rootfs_disk = Some(size(ROOTFS_DISK)?),
                ROOTFS_MEMORY => parsed.rootfs_memory = Some(size(ROOTFS_MEMORY)?),
                name if name.starts_with(PREFIX) => {
                    return Err(AnnotationError::Unknown(name.into()));
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(annotations: &[(&str, &str)]) -> Result<Annotations, AnnotationError> {
        let map = annotations
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        Annotations::parse(Some(&map))
    }

    #[test]
    fn ours_are_read_and_others_ignored() {
        assert_eq!(
            parse(&[
                ("dev.nacre.isolation", "vm"),
                ("dev.nacre.vm.hypervisor", "qemu"),
                ("dev.nacre.vm.cpus", "4"),
                ("dev.nacre.vm.memory", "512M"),
                ("dev.nacre.vm.nested", "true"),
                ("dev.nacre.vm.rootfs", "overlay"),
                ("dev.nacre.vm.rootfs.disk", "1G"),
                ("dev.nacre.vm.rootfs.memory", "64M"),
                ("io.kubernetes.pod", "x"),
            ]),
            Ok(Annotations {
                isolation: Some(Isolation::Vm),
                hypervisor: Some(Hypervisor::Qemu),
                cpus: Some(4),
                memory: Some(Bytes(512 << 20)),
                nested: Some(true),
                rootfs: Some(rootfs::Kind::Overlay),
                rootfs_disk: Some(Bytes(1 << 30)),
                rootfs_memory: Some(Bytes(64 << 20)),
            })
        );
        assert_eq!(Annotations::parse(None), Ok(Annotations::default()));
    }

    #[test]
    fn an_unknown_one_of_ours_is_refused() {
        assert_eq!(
            parse(&[("dev.nacre.vm.kernel", "/x")]),
            Err(AnnotationError::Unknown("dev.nacre.vm.kernel".into()))
        );
    }

    #[test]
    fn a_wrong_value_is_refused_by_name() {
        for (name, value) in [
            ("dev.nacre.isolation", "none"),
            ("dev.nacre.vm.hypervisor", "auto"),
            ("dev.nacre.vm.cpus", "two"),
            ("dev.nacre.vm.cpus", "-1"),
            ("dev.nacre.vm.memory", ""),
            ("dev.nacre.vm.nested", "yes"),
            ("dev.nacre.vm.nested", ""),
            ("dev.nacre.vm.rootfs", "disk"),
            ("dev.nacre.vm.rootfs.disk", "large"),
            ("dev.nacre.vm.rootfs.memory", "-1"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
