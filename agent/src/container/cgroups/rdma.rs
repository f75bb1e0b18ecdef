//! The rdma controller: `linux.resources.rdma`, in both versions.

use std::collections::HashMap;

use oci_spec::runtime::LinuxRdma;

use super::CgroupError;
use super::setting::Setting;

/// Returns the limits, sorted by device, so that the first error doesn't depend on the map's order.
pub(super) fn settings(limits: &HashMap<String, LinuxRdma>) -> Result<Vec<Setting>, CgroupError> {
    let mut devices: Vec<_> = limits.iter().collect();
    devices.sort_unstable_by_key(|(device, _)| *device);
    let mut settings = Vec::with_capacity(devices.len());
    for (device, limit) in devices {
        let sound = |b: u8| b.is_ascii_graphic() && b != b'=';
        if device.is_empty() || device.len() > 64 || !device.bytes().all(sound) {
            let expected = "the name of an RDMA device";
            return Err(CgroupError::invalid(
                "rdma",
                format!("{device:?}"),
                expected,
            ));
        }
        let mut value = device.clone();
        for (key, number) in [
            ("hca_handle", limit.hca_handles()),
            ("hca_object", limit.hca_objects()),
        ] {
            if let Some(number) = number {
                value.push_str(&format!(" {key}={number}"));
            }
        }
        settings.push(Setting::new(&format!("rdma.{device}"), "rdma.max", value));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::written;

    fn rdma(json: &str) -> Result<Vec<(String, String)>, String> {
        written(json, settings)
    }

    #[test]
    fn each_device_is_a_line() {
        let got = rdma(
            r#"{"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 5}}"#,
        );
        let line = |value: &str| ("rdma.max".to_owned(), value.to_owned());
        assert_eq!(
            got.unwrap(),
            [
                line("mlx4_0 hca_object=5"),
                line("mlx5_1 hca_handle=3 hca_object=10000"),
            ]
        );
    }

    #[test]
    fn a_name_can_t_be_more_than_that() {
        for name in ["", "a b", "a=b", "a\\nb"] {
            let error = rdma(&format!(r#"{{"{name}": {{"hcaHandles": 1}}}}"#)).unwrap_err();
            assert!(error.starts_with("linux.resources.rdma: "), "{error}");
        }
    }
}
