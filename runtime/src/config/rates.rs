//! Decides how much of the host's disks and networks a container's VM can use: bytes and operations
//! a second, and as much as for one second at once. This is the one place that does.
//!
//! The annotations `dev.nacre.vm.disk.bandwidth`, `dev.nacre.vm.disk.operations` and those for
//! `files` and `network`, and `vm.disk-limit`, `vm.files-limit` and `vm.network-limit` of the
//! configuration file, each of them optional. Some callers pass on the annotations of an image, so
//! an annotation never raises a limit of the file: the lower one counts.

use nacre_vmm::devices::virtio::throttle::{Rate, RateLimit};

use super::{
    annotations::Annotations,
    asked_rate::AskedRate,
    bytes::Bytes,
    file::VmSettings,
    keys::{
        DISK_BANDWIDTH, DISK_OPERATIONS, FILES_BANDWIDTH, FILES_OPERATIONS, NETWORK_BANDWIDTH,
        NETWORK_OPERATIONS,
    },
};

/// The lowest and the highest bandwidth, in bytes a second. With less than the lowest, a container's
/// programs take minutes to be read; no device does more than the highest.
const BANDWIDTHS: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 40;

/// The lowest and the highest number of operations a second, likewise.
const OPERATIONS: std::ops::RangeInclusive<u64> = 100..=1_000_000_000;

/// How much a VM can use each second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Of the disk for what is written over the root.
    pub(crate) disk: RateLimit,
    /// Of the host's files.
    pub(crate) files: RateLimit,
    /// Of all its networks together, in each direction.
    pub(crate) network: RateLimit,
}

/// Why a limit can't be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateError {
    #[error("{by}: {asked} a second isn't a limit, {least} to {most} is",
        least = Bytes(*BANDWIDTHS.start()), most = Bytes(*BANDWIDTHS.end()))]
    Bandwidth { by: &'static str, asked: Bytes },
    #[error("{by}: {asked} operations a second isn't a limit, {least} to {most} is",
        least = OPERATIONS.start(), most = OPERATIONS.end())]
    Operations { by: &'static str, asked: u64 },
}

impl Rates {
    /// Chooses the limits of a container's VM.
    pub(crate) fn choose(
        annotations: &Annotations,
        config: &VmSettings,
    ) -> Result<Self, RateError> {
        const DISK: &str = "vm.disk-limit in the configuration file";
        const FILES: &str = "vm.files-limit in the configuration file";
        const NETWORK: &str = "vm.network-limit in the configuration file";
        Ok(Self {
            disk: lower(
                (annotations.disk, [DISK_BANDWIDTH, DISK_OPERATIONS]),
                (config.disk_limit, [DISK; 2]),
            )?,
            files: lower(
                (annotations.files, [FILES_BANDWIDTH, FILES_OPERATIONS]),
                (config.files_limit, [FILES; 2]),
            )?,
            network: lower(
                (annotations.network, [NETWORK_BANDWIDTH, NETWORK_OPERATIONS]),
                (config.network_limit, [NETWORK; 2]),
            )?,
        })
    }
}

/// A limit that is asked for, and the names of what asks for its bandwidth and its operations.
type Asked = (AskedRate, [&'static str; 2]);

/// Returns the lower of two limits, once both have been checked.
fn lower(first: Asked, second: Asked) -> Result<RateLimit, RateError> {
    let [first, second] = [checked(first)?, checked(second)?];
    // An absent one is no limit.
    let rate = |first: Option<u64>, second: Option<u64>| {
        let lowest = first.into_iter().chain(second).min();
        lowest.map(Rate::per_second)
    };
    let bytes = |asked: AskedRate| asked.bandwidth.map(|bytes| bytes.0);
    Ok(RateLimit {
        bytes: rate(bytes(first), bytes(second)),
        operations: rate(first.operations, second.operations),
    })
}

fn checked((asked, [by_bandwidth, by_operations]): Asked) -> Result<AskedRate, RateError> {
    if let Some(asked) = asked.bandwidth
        && !BANDWIDTHS.contains(&asked.0)
    {
        let by = by_bandwidth;
        return Err(RateError::Bandwidth { by, asked });
    }
    if let Some(asked) = asked.operations
        && !OPERATIONS.contains(&asked)
    {
        let by = by_operations;
        return Err(RateError::Operations { by, asked });
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(bandwidth: Option<u64>, operations: Option<u64>) -> AskedRate {
        AskedRate {
            bandwidth: bandwidth.map(Bytes),
            operations,
        }
    }

    fn choose(annotations: &Annotations, config: &str) -> Result<Rates, String> {
        let config: VmSettings = toml::from_str(config).unwrap();
        Rates::choose(annotations, &config).map_err(|error| error.to_string())
    }

    fn limit(bytes: Option<u64>, operations: Option<u64>) -> RateLimit {
        RateLimit {
            bytes: bytes.map(Rate::per_second),
            operations: operations.map(Rate::per_second),
        }
    }

    #[test]
    fn nothing_is_limited_unless_it_is_asked_for() {
        let none = Annotations::default();
        assert_eq!(choose(&none, ""), Ok(Rates::default()));
        let rates = choose(
            &none,
            "disk-limit = { bandwidth = \"1M\" }\nfiles-limit = { operations = 500 }\n\
             network-limit = { bandwidth = \"1G\", operations = 900 }",
        );
        let expected = Rates {
            disk: limit(Some(1 << 20), None),
            files: limit(None, Some(500)),
            network: limit(Some(1 << 30), Some(900)),
        };
        assert_eq!(rates, Ok(expected));
    }

    #[test]
    fn the_lower_limit_counts() {
        let config = "disk-limit = { bandwidth = \"2M\", operations = 200 }";
        for (annotation, expected) in [
            (asked(None, None), limit(Some(2 << 20), Some(200))),
            (
                asked(Some(1 << 20), Some(300)),
                limit(Some(1 << 20), Some(200)),
            ),
            (
                asked(Some(3 << 20), Some(100)),
                limit(Some(2 << 20), Some(100)),
            ),
        ] {
            let annotations = Annotations {
                disk: annotation,
                network: annotation,
                ..Annotations::default()
            };
            let rates = choose(&annotations, config).unwrap();
            assert_eq!(rates.disk, expected);
            // Where the file has none, the annotation's counts.
            let bytes = annotation.bandwidth.map(|bytes| bytes.0);
            assert_eq!(rates.network, limit(bytes, annotation.operations));
            assert_eq!(rates.files, RateLimit::default());
        }
    }

    #[test]
    fn an_absurd_limit_is_refused_by_name() {
        let (mut disk, mut files, mut network) =
            <(Annotations, Annotations, Annotations)>::default();
        disk.disk = asked(Some(0), None);
        files.files = asked(None, Some(99));
        network.network = asked(Some((1 << 40) + 1), None);
        let none = Annotations::default();
        for (annotations, config, name) in [
            (&disk, "", DISK_BANDWIDTH),
            // The lower one would do, but nobody can have meant the other.
            (&disk, "disk-limit = { bandwidth = \"1M\" }", DISK_BANDWIDTH),
            (&files, "", FILES_OPERATIONS),
            (&network, "", NETWORK_BANDWIDTH),
            (&none, "disk-limit = { operations = 0 }", "vm.disk-limit"),
            (
                &none,
                "files-limit = { bandwidth = \"1\" }",
                "vm.files-limit",
            ),
            (
                &none,
                "network-limit = { operations = 5000000000 }",
                "vm.network-limit",
            ),
        ] {
            let refused = choose(annotations, config).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
