//! The blkio controller: `linux.resources.blockIO`
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v1/blkio-controller.html)).

use oci_spec::runtime::LinuxBlockIo;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::devices::device_number;
use crate::container::cgroups::setting::{IfMissing, Setting};

pub(in crate::container::cgroups) fn settings(
    block_io: &LinuxBlockIo,
) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        let field = "blockIO.weight";
        check_weight(field, weight)?;
        settings.push(weight_setting(
            field,
            "blkio.bfq.weight",
            "blkio.weight",
            weight,
        ));
    }
    if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight != 0) {
        let field = "blockIO.leafWeight";
        check_weight(field, weight)?;
        settings.push(Setting::new(field, "blkio.leaf_weight", weight));
    }
    for device in block_io.weight_device().iter().flatten() {
        let field = "blockIO.weightDevice";
        let number = device_number(field, device.major(), device.minor())?;
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            check_weight(field, weight)?;
            settings.push(weight_setting(
                field,
                "blkio.bfq.weight_device",
                "blkio.weight_device",
                format!("{number} {weight}"),
            ));
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0) {
            let field = "blockIO.weightDevice.leafWeight";
            check_weight(field, weight)?;
            let value = format!("{number} {weight}");
            settings.push(Setting::new(field, "blkio.leaf_weight_device", value));
        }
    }
    for (field, file, devices) in [
        (
            "blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            let number = device_number(field, device.major(), device.minor())?;
            // To the kernel too, a rate of 0 means no limit.
            let value = format!("{number} {}", device.rate());
            settings.push(Setting::new(field, file, value));
        }
    }
    Ok(settings)
}

/// Returns the setting for BFQ's file, or the one that CFQ had before Linux 5.0.
fn weight_setting(field: &str, bfq: &str, other: &'static str, value: impl ToString) -> Setting {
    let value = value.to_string();
    Setting::new(field, bfq, &value).if_missing(IfMissing::Instead { file: other, value })
}

fn check_weight(field: &str, weight: u16) -> Result<(), CgroupError> {
    match weight {
        10..=1000 => Ok(()),
        _ => Err(CgroupError::invalid(field, weight, "between 10 and 1000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blkio(json: &str) -> Result<Vec<Setting>, String> {
        let block_io: LinuxBlockIo = serde_json::from_str(json).unwrap();
        settings(&block_io).map_err(|e| e.to_string())
    }

    #[test]
    fn weights_go_to_bfq_or_else_to_cfq() {
        let got =
            blkio(r#"{"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}"#)
                .unwrap();
        let got: Vec<_> = got.iter().map(|s| (&*s.file, &*s.value)).collect();
        assert_eq!(
            got,
            [
                ("blkio.bfq.weight", "500"),
                ("blkio.bfq.weight_device", "8:0 10"),
            ]
        );
        assert_eq!(blkio(r#"{"weight": 0, "leafWeight": 0}"#).unwrap(), []);
    }

    #[test]
    fn each_rate_has_its_file() {
        let got = blkio(
            r#"{
            "leafWeight": 20,
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
            "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 0}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}]
        }"#,
        )
        .unwrap();
        let got: Vec<_> = got.iter().map(|s| (&*s.file, &*s.value)).collect();
        assert_eq!(
            got,
            [
                ("blkio.leaf_weight", "20"),
                ("blkio.throttle.read_bps_device", "8:0 1000"),
                ("blkio.throttle.write_bps_device", "8:16 0"),
                ("blkio.throttle.read_iops_device", "8:0 3"),
                ("blkio.throttle.write_iops_device", "8:0 4"),
            ]
        );
    }

    #[test]
    fn what_is_no_weight_is_refused_by_name() {
        for (json, field) in [
            (r#"{"weight": 9}"#, "blockIO.weight: 9 "),
            (r#"{"leafWeight": 1001}"#, "blockIO.leafWeight: 1001 "),
            (
                r#"{"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}"#,
                "blockIO.throttleReadBpsDevice: -1:0 ",
            ),
        ] {
            let error = blkio(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
