//! The hugetlb controller: `linux.resources.hugepageLimits`.

use oci_spec::runtime::LinuxHugepageLimit;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::{IfMissing, Setting};

/// Limits in bytes for each page size.
pub(in crate::container::cgroups) fn settings(
    limits: &[LinuxHugepageLimit],
) -> Result<Vec<Setting>, CgroupError> {
    let field = "hugepageLimits";
    let mut settings = Vec::new();
    for limit in limits {
        let size = limit.page_size();
        let value = match checked(limit)? {
            -1 => "max".to_owned(),
            bytes => bytes.to_string(),
        };
        settings.push(Setting::new(field, format!("hugetlb.{size}.max"), &value));
        // Reservations fail where the page fault would otherwise kill; kernels before 5.7 lack it.
        settings.push(
            Setting::new(field, format!("hugetlb.{size}.rsvd.max"), value)
                .if_missing(IfMissing::Skip),
        );
    }
    Ok(settings)
}

/// Returns the number of bytes, or -1 for none, after checking it and its page size.
pub(in crate::container::cgroups) fn checked(
    limit: &LinuxHugepageLimit,
) -> Result<i64, CgroupError> {
    let field = "hugepageLimits";
    let size = limit.page_size();
    if !is_page_size(size) {
        let expected = "a page size like 2MB";
        return Err(CgroupError::invalid(field, format!("{size:?}"), expected));
    }
    match limit.limit() {
        bytes @ -1.. => Ok(bytes),
        other => {
            let expected = "a number of bytes, or -1";
            Err(CgroupError::invalid(field, other, expected))
        }
    }
}

/// Whether it is `<number><KB, MB or GB>`, as the kernel names its files.
fn is_page_size(size: &str) -> bool {
    ["KB", "MB", "GB"].iter().any(|unit| {
        size.strip_suffix(unit).is_some_and(|number| {
            (1..=4).contains(&number.len())
                && !number.starts_with('0')
                && number.bytes().all(|b| b.is_ascii_digit())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::written;

    fn limits(json: &str) -> Result<Vec<(String, String)>, String> {
        written(json, |limits: &Vec<LinuxHugepageLimit>| settings(limits))
    }

    #[test]
    fn a_limit_goes_to_its_page_sizes_files() {
        let got = limits(r#"[{"pageSize": "2MB", "limit": 4194304}]"#).unwrap();
        let value = "4194304".to_owned();
        assert_eq!(
            got,
            [
                ("hugetlb.2MB.max".to_owned(), value.clone()),
                ("hugetlb.2MB.rsvd.max".to_owned(), value),
            ]
        );
    }

    #[test]
    fn a_page_size_can_name_no_other_file() {
        for size in ["", "MB", "2", "2mb", "02MB", "../2MB", "2/MB", "99999MB"] {
            let error = limits(&format!(r#"[{{"pageSize": "{size}", "limit": 0}}]"#));
            assert!(error.unwrap_err().contains("hugepageLimits"), "{size:?}");
        }
        limits(r#"[{"pageSize": "2MB", "limit": -2}]"#).unwrap_err();
    }
}
