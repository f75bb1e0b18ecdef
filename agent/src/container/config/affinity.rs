//! The CPUs that a container's processes run on: those of its cpuset, unless
//! `process.execCPUAffinity` says otherwise for a process that is started in it later. The spec
//! gives that field no meaning for a container's first process.

use oci_spec::runtime::Process;

use super::error::ConfigError;
use crate::container::kernel::cpu_list;
use crate::container::kernel::cpus::Cpus;

/// The CPUs that a process is to run on.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    /// The CPUs until it is in the container's cgroup.
    pub(crate) initial: Option<Cpus>,
    /// The CPUs from then on.
    pub(crate) last: Option<Cpus>,
}

impl Affinity {
    /// Parses the field.
    pub(crate) fn parse(process: &Process) -> Result<Self, ConfigError> {
        let Some(affinity) = process.exec_cpu_affinity() else {
            return Ok(Affinity::default());
        };
        let cpus = |name: &str, list: &Option<String>| -> Result<Option<Cpus>, ConfigError> {
            let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
                return Ok(None);
            };
            let numbers = cpu_list::parse(list).filter(|numbers| !numbers.is_empty());
            let numbers = numbers.ok_or_else(|| {
                let field = format!("process.execCPUAffinity.{name}");
                ConfigError::invalid(field, format!("{list:?} isn't a list of CPUs, like 0-2,4"))
            })?;
            Ok(Some(Cpus(cpu_list::bits(numbers))))
        };
        Ok(Affinity {
            initial: cpus("initial", affinity.initial())?,
            last: cpus("final", affinity.cpu_affinity_final())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn affinity(json: serde_json::Value) -> Result<Affinity, String> {
        let process = json!({"user": {}, "cwd": "/", "args": ["x"], "execCPUAffinity": json});
        let process: Process = serde_json::from_value(process).map_err(|e| e.to_string())?;
        Affinity::parse(&process).map_err(|e| e.to_string())
    }

    #[test]
    fn lists_become_bits() {
        let both = affinity(json!({"initial": "0-2,65", "final": "3"})).unwrap();
        assert_eq!(both.initial, Some(Cpus(vec![0b111, 0b10])));
        assert_eq!(both.last, Some(Cpus(vec![0b1000])));
        let none = affinity(json!({})).unwrap();
        assert_eq!((none.initial, none.last), (None, None));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert!(affinity(json!({"initial": "x"})).is_err());
        assert_eq!(
            affinity(json!({"final": "2-1"})).unwrap_err(),
            "process.execCPUAffinity.final: \"2-1\" isn't a list of CPUs, like 0-2,4"
        );
        assert!(affinity(json!({"final": "0-4294967295"})).is_err());
    }

    #[test]
    fn what_is_current_can_be_set() {
        Cpus::current().unwrap().set().unwrap();
    }
}
