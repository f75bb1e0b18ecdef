//! The io controller: `linux.resources.blockIO`.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::devices::device_number;
use crate::container::cgroups::setting::{IfMissing, Setting};

const LEAF_WEIGHT: &str = "cgroup v2 has no weights of leaves";

pub(in crate::container::cgroups) fn settings(
    block_io: &LinuxBlockIo,
) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(CgroupError::unsupported("blockIO.leafWeight", LEAF_WEIGHT));
    }
    if let Some(weight) = block_io.weight()
        && weight != 0
    {
        check_weight("blockIO.weight", weight)?;
        // BFQ's file takes the spec's range as it is; iocost's has another range.
        let setting = Setting::new("blockIO.weight", "io.bfq.weight", weight);
        settings.push(setting.if_missing(IfMissing::Instead {
            file: "io.weight",
            value: io_weight(weight).to_string(),
        }));
    }
    for device in block_io.weight_device().iter().flatten() {
        let field = "blockIO.weightDevice";
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(CgroupError::unsupported(
                format!("{field}.leafWeight"),
                LEAF_WEIGHT,
            ));
        }
        if let Some(weight) = device.weight() {
            check_weight(field, weight)?;
            let device = device_number(field, device.major(), device.minor())?;
            let setting = Setting::new(field, "io.bfq.weight", format!("{device} {weight}"));
            settings.push(setting.if_missing(IfMissing::Instead {
                file: "io.weight",
                value: format!("{device} {}", io_weight(weight)),
            }));
        }
    }
    for (field, key, devices) in [
        (
            "blockIO.throttleReadBpsDevice",
            "rbps",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            "wbps",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            "riops",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            settings.push(throttle(field, key, device)?);
        }
    }
    Ok(settings)
}

/// Returns the setting for a rate. A rate of 0 means no limit, as on v1.
fn throttle(field: &str, key: &str, device: &LinuxThrottleDevice) -> Result<Setting, CgroupError> {
    let number = device_number(field, device.major(), device.minor())?;
    let rate = match device.rate() {
        0 => "max".to_owned(),
        rate => rate.to_string(),
    };
    Ok(Setting::new(
        field,
        "io.max",
        format!("{number} {key}={rate}"),
    ))
}

fn check_weight(field: &str, weight: u16) -> Result<(), CgroupError> {
    if (10..=1000).contains(&weight) {
        Ok(())
    } else {
        Err(CgroupError::invalid(field, weight, "between 10 and 1000"))
    }
}

/// Converts a weight of 10 to 1000 to the scale of 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(json: &str) -> Result<Vec<Setting>, String> {
        let block_io: LinuxBlockIo = serde_json::from_str(json).unwrap();
        settings(&block_io).map_err(|e| e.to_string())
    }

    #[test]
    fn weights_go_to_bfq_or_else_to_iocost() {
        for (weight, converted) in [(10, "1"), (500, "4950"), (1000, "10000")] {
            let got = io(&format!(r#"{{"weight": {weight}}}"#)).unwrap();
            let expected = Setting::new("blockIO.weight", "io.bfq.weight", weight);
            let expected = expected.if_missing(IfMissing::Instead {
                file: "io.weight",
                value: converted.to_owned(),
            });
            assert_eq!(got, [expected]);
        }
        assert_eq!(io(r#"{"weight": 0, "leafWeight": 0}"#).unwrap(), []);
        let got = io(r#"{"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}"#).unwrap();
        assert_eq!(got[0].value, "8:0 10");
        assert!(matches!(&got[0].if_missing, IfMissing::Instead { value, .. } if value == "8:0 1"));
    }

    #[test]
    fn rates_go_to_io_max() {
        let got = io(r#"{
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
            "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 0}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}]
        }"#)
        .unwrap();
        let got: Vec<_> = got.iter().map(|s| (&*s.file, &*s.value)).collect();
        assert_eq!(
            got,
            [
                ("io.max", "8:0 rbps=1000"),
                ("io.max", "8:16 wbps=max"),
                ("io.max", "8:0 riops=3"),
                ("io.max", "8:0 wiops=4"),
            ]
        );
    }

    #[test]
    fn what_v2_lacks_is_refused_by_name() {
        for (json, field) in [
            (r#"{"leafWeight": 10}"#, "blockIO.leafWeight "),
            (r#"{"weight": 9}"#, "blockIO.weight: 9 "),
            (r#"{"weight": 1001}"#, "blockIO.weight: 1001 "),
            (
                r#"{"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}"#,
                "blockIO.throttleReadBpsDevice: -1:0 ",
            ),
            (
                r#"{"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}"#,
                "blockIO.weightDevice.leafWeight ",
            ),
        ] {
            let error = io(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
