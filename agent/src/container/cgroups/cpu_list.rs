//! The cpuset controller: `cpus` and `mems` of `linux.resources.cpu`, in both versions.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxCpu;

use super::CgroupError;
use super::setting::Setting;

/// More than any kernel is built for (`NR_CPUS` is at most 8192), so that a list can't make
/// us allocate without bound.
const MAX_NUMBER: u32 = 1 << 16;

pub(super) fn settings(cpu: &LinuxCpu) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    for (field, file, list) in [
        ("cpu.cpus", "cpuset.cpus", cpu.cpus()),
        ("cpu.mems", "cpuset.mems", cpu.mems()),
    ] {
        if let Some(list) = list
            && !list.is_empty()
        {
            if parse(list).is_none_or(|numbers| numbers.is_empty()) {
                let expected = "a list of numbers and ranges, like 0-2,4";
                return Err(CgroupError::invalid(field, format!("{list:?}"), expected));
            }
            settings.push(Setting::new(field, file, list));
        }
    }
    Ok(settings)
}

/// v2's kernel takes CPUs and nodes that aren't there and then uses others, so what came of
/// it has to be looked at.
pub(super) fn check_effective(directory: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
    for setting in settings {
        if !matches!(setting.file.as_str(), "cpuset.cpus" | "cpuset.mems") {
            continue;
        }
        let file = directory.join(format!("{}.effective", setting.file));
        let effective = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
        let available = effective.trim();
        // `unified` may hold a syntax that only the kernel knows; then it has the say.
        if let (Some(requested), Some(available_set)) = (parse(&setting.value), parse(available))
            && requested != available_set
        {
            let available: Vec<String> = available_set
                .intersection(&requested)
                .map(u32::to_string)
                .collect();
            return Err(CgroupError::Unavailable {
                field: setting.field.clone(),
                requested: setting.value.clone(),
                available: available.join(","),
            });
        }
    }
    Ok(())
}

/// The numbers of a list like `0-2,4`; `None` if it isn't one.
pub(in crate::container) fn parse(list: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [first, last] = [first, last].map(|number| {
            let digits = number.bytes().all(|b| b.is_ascii_digit());
            number
                .parse::<u32>()
                .ok()
                .filter(|n| digits && *n < MAX_NUMBER)
        });
        let (first, last) = (first?, last?);
        if first > last {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_as_the_kernel_does() {
        for (list, expected) in [
            ("0", Some(vec![0])),
            ("0-2,4", Some(vec![0, 1, 2, 4])),
            ("3,1\n", Some(vec![1, 3])),
            ("", Some(vec![])),
            ("2-1", None),
            ("a", None),
            ("+1", None),
            ("-1", None),
            ("0-", None),
            ("0 1", None),
            ("0-4294967295", None),
            ("1/../2", None),
        ] {
            let expected = expected.map(BTreeSet::from_iter);
            assert_eq!(parse(list), expected, "{list:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_by_name() {
        for (json, field) in [
            (r#"{"cpus": "0-"}"#, "cpu.cpus: \"0-\""),
            (r#"{"mems": ","}"#, "cpu.mems: \",\""),
        ] {
            let cpu: LinuxCpu = serde_json::from_str(json).unwrap();
            let error = settings(&cpu).unwrap_err().to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
    }

    #[test]
    fn cpus_that_are_not_there_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cpuset.cpus.effective"), "0-1\n").unwrap();
        let check = |cpus: &str| {
            let setting = Setting::new("cpu.cpus", "cpuset.cpus", cpus);
            check_effective(directory.path(), &[setting])
        };
        check("0,1").unwrap();
        let error = check("1-2").unwrap_err().to_string();
        assert!(error.contains("of 1-2, only \"1\" is"), "{error}");
        check("7").unwrap_err();
    }
}
