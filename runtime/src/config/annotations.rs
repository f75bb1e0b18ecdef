//! nacre's own annotations of `config.json`: `dev.nacre.*`.

use std::collections::HashMap;

use super::{
    asked_rate::AskedRate,
    bytes::Bytes,
    hypervisor::Hypervisor,
    isolation::Isolation,
    keys::{
        CPUS, DISK_BANDWIDTH, DISK_OPERATIONS, FILES_BANDWIDTH, FILES_OPERATIONS, HYPERVISOR,
        ISOLATION, MEMORY, NESTED, NETWORK_BANDWIDTH, NETWORK_OPERATIONS, PREFIX, ROOTFS,
        ROOTFS_DISK, ROOTFS_MEMORY,
    },
    root_kind::RootKind,
};

/// How a valid size looks, for error messages.
const A_SIZE: &str = "a size: bytes, or with K, M, G or T at the end";

/// The contents of a container's nacre annotations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotations {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) hypervisor: Option<Hypervisor>,
    pub(crate) cpus: Option<u32>,
    pub(crate) memory: Option<Bytes>,
    pub(crate) nested: Option<bool>,
    pub(crate) rootfs: Option<RootKind>,
    pub(crate) rootfs_disk: Option<Bytes>,
    pub(crate) rootfs_memory: Option<Bytes>,
    pub(crate) disk: AskedRate,
    pub(crate) files: AskedRate,
    pub(crate) network: AskedRate,
}

/// Why the annotations can't be honoured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnotationError {
    #[error(
        "annotations: {0:?} isn't known; {ISOLATION}, {HYPERVISOR}, {CPUS}, {MEMORY}, {NESTED}, \
         {ROOTFS}, {ROOTFS_DISK}, {ROOTFS_MEMORY}, {DISK_BANDWIDTH}, {DISK_OPERATIONS}, \
         {FILES_BANDWIDTH}, {FILES_OPERATIONS}, {NETWORK_BANDWIDTH} and {NETWORK_OPERATIONS} are"
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
    /// Reads nacre's annotations and ignores the rest, as the OCI runtime spec requires. An
    /// annotation with nacre's prefix that isn't known is refused, so that a typo doesn't go
    /// unnoticed.
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
            let number = |name| value.parse().map_err(|_| wrong(name, "a number"));
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
                    let kind = RootKind::from_name(value)
                        .ok_or_else(|| wrong(ROOTFS, "a kind of root: shared, overlay"))?;
                    parsed.rootfs = Some(kind);
                }
                ROOTFS_DISK => parsed.rootfs_disk = Some(size(ROOTFS_DISK)?),
                ROOTFS_MEMORY => parsed.rootfs_memory = Some(size(ROOTFS_MEMORY)?),
                DISK_BANDWIDTH => parsed.disk.bandwidth = Some(size(DISK_BANDWIDTH)?),
                DISK_OPERATIONS => parsed.disk.operations = Some(number(DISK_OPERATIONS)?),
                FILES_BANDWIDTH => parsed.files.bandwidth = Some(size(FILES_BANDWIDTH)?),
                FILES_OPERATIONS => parsed.files.operations = Some(number(FILES_OPERATIONS)?),
                NETWORK_BANDWIDTH => parsed.network.bandwidth = Some(size(NETWORK_BANDWIDTH)?),
                NETWORK_OPERATIONS => parsed.network.operations = Some(number(NETWORK_OPERATIONS)?),
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

    fn rate(bandwidth: u64, operations: u64) -> AskedRate {
        AskedRate {
            bandwidth: Some(Bytes(bandwidth)),
            operations: Some(operations),
        }
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
                ("dev.nacre.vm.disk.bandwidth", "1M"),
                ("dev.nacre.vm.disk.operations", "200"),
                ("dev.nacre.vm.files.bandwidth", "3M"),
                ("dev.nacre.vm.files.operations", "400"),
                ("dev.nacre.vm.network.bandwidth", "5M"),
                ("dev.nacre.vm.network.operations", "600"),
                ("io.kubernetes.pod", "x"),
            ]),
            Ok(Annotations {
                isolation: Some(Isolation::Vm),
                hypervisor: Some(Hypervisor::Qemu),
                cpus: Some(4),
                memory: Some(Bytes(512 << 20)),
                nested: Some(true),
                rootfs: Some(RootKind::Overlay),
                rootfs_disk: Some(Bytes(1 << 30)),
                rootfs_memory: Some(Bytes(64 << 20)),
                disk: rate(1 << 20, 200),
                files: rate(3 << 20, 400),
                network: rate(5 << 20, 600),
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
            ("dev.nacre.vm.disk.bandwidth", "fast"),
            ("dev.nacre.vm.files.operations", "-1"),
            ("dev.nacre.vm.network.operations", "1K"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
