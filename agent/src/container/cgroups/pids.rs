//! The pids controller: `linux.resources.pids`, in both versions.

use oci_spec::runtime::LinuxPids;

use super::setting::Setting;

/// Returns the limit. 0 and negative numbers mean no limit: nothing could run with 0.
pub(super) fn setting(pids: &LinuxPids) -> Setting {
    let value = match pids.limit() {
        ..=0 => "max".to_owned(),
        limit => limit.to_string(),
    };
    Setting::new("pids.limit", "pids.max", value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_max() {
        for (limit, expected) in [(100, "100"), (1, "1"), (0, "max"), (-1, "max")] {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            let setting = setting(&pids);
            assert_eq!(setting.file, "pids.max");
            assert_eq!(setting.value, expected, "{limit}");
        }
    }
}
