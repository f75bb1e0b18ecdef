//! The cpuset controller: `cpus` and `mems` of `linux.resources.cpu`, in both versions.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxCpu;

use super::CgroupError;
use super::setting::Setting;
use crate::container::kernel::cpu_list;

pub(super) fn settings(cpu: &LinuxCpu) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    for (field, file, list) in [
        ("cpu.cpus", "cpuset.cpus", cpu.cpus()),
        ("cpu.mems", "cpuset.mems", cpu.mems()),
    ] {
        if let Some(list) = list
            && !list.is_empty()
        {
            if cpu_list::parse(list).is_none_or(|numbers| numbers.is_empty()) {
                let expected = "a list of numbers and ranges, like 0-2,4";
                return Err(CgroupError::invalid(field, format!("{list:?}"), expected));
            }
            settings.push(Setting::new(field, file, list));
        }
    }
    Ok(settings)
}

/// Checks which CPUs and nodes are in effect: v2's kernel takes ones that don't exist, and then
/// uses others.
pub(super) fn check_effective(directory: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
    for setting in settings {
        if !matches!(setting.file.as_str(), "cpuset.cpus" | "cpuset.mems") {
            continue;
        }
        let file = directory.join(format!("{}.effective", setting.file));
        let effective = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
        let available = effective.trim();
        // `unified` may have a syntax that only the kernel knows; then the kernel decides.
        if let (Some(requested), Some(available_set)) =
            (cpu_list::parse(&setting.value), cpu_list::parse(available))
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

#[cfg(test)]
mod tests {
    use super::*;

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
