//! The hugetlb controller: `linux.resources.hugepageLimits`
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v1/hugetlb.html)).

use oci_spec::runtime::LinuxHugepageLimit;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::{IfMissing, Setting};
use crate::container::cgroups::v2::hugetlb::checked;

/// Limits in bytes for each page size.
pub(in crate::container::cgroups) fn settings(
    limits: &[LinuxHugepageLimit],
) -> Result<Vec<Setting>, CgroupError> {
    let field = "hugepageLimits";
    let mut settings = Vec::new();
    for limit in limits {
        let (size, value) = (limit.page_size(), checked(limit)?);
        let file = format!("hugetlb.{size}.limit_in_bytes");
        settings.push(Setting::new(field, file, value));
        // Reservations fail where the page fault would otherwise kill; kernels before 5.7 lack it.
        settings.push(
            Setting::new(field, format!("hugetlb.{size}.rsvd.limit_in_bytes"), value)
                .if_missing(IfMissing::Skip),
        );
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_goes_to_its_page_sizes_files() {
        let json = r#"[{"pageSize": "2MB", "limit": 4194304}, {"pageSize": "1GB", "limit": -1}]"#;
        let limits: Vec<LinuxHugepageLimit> = serde_json::from_str(json).unwrap();
        let got = settings(&limits).unwrap();
        let got: Vec<_> = got.iter().map(|s| (&*s.file, &*s.value)).collect();
        assert_eq!(
            got,
            [
                ("hugetlb.2MB.limit_in_bytes", "4194304"),
                ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
                ("hugetlb.1GB.limit_in_bytes", "-1"),
                ("hugetlb.1GB.rsvd.limit_in_bytes", "-1"),
            ]
        );
    }
}
