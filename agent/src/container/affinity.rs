//! `process.execCPUAffinity`: the CPUs of a process that is started in a container later. For a
//! container's first process the spec gives it no meaning.

use nix::errno::Errno;
use oci_spec::runtime::Process;

use super::cgroups::number_list;
use super::config::ConfigError;

/// A bit for each CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cpus(Vec<u64>);

/// Where a process is to run.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    /// Until it is in the container's cgroup.
    pub(super) initial: Option<Cpus>,
    /// From then on.
    pub(super) last: Option<Cpus>,
}

impl Affinity {
    /// Understands the field.
    pub(super) fn parse(process: &Process) -> Result<Self, ConfigError> {
        let Some(affinity) = process.exec_cpu_affinity() else {
            return Ok(Affinity::default());
        };
        let cpus = |name: &str, list: &Option<String>| -> Result<Option<Cpus>, ConfigError> {
            let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
                return Ok(None);
            };
            let numbers = number_list(list).filter(|numbers| !numbers.is_empty());
            let numbers = numbers.ok_or_else(|| {
                let field = format!("process.execCPUAffinity.{name}");
                ConfigError::invalid(field, format!("{list:?} isn't a list of CPUs, like 0-2,4"))
            })?;
            Ok(Some(Cpus(bits(numbers))))
        };
        Ok(Affinity {
            initial: cpus("initial", affinity.initial())?,
            last: cpus("final", affinity.cpu_affinity_final())?,
        })
    }
}

impl Cpus {
    /// Where this process may run now.
    pub(super) fn current() -> nix::Result<Self> {
        // Of any kernel: NR_CPUS is at most 8192.
        let mut cpus = Cpus(vec![0; 8192 / 64]);
        // SAFETY: the pointer and the size in bytes are of one buffer.
        let result = unsafe {
            let size = size_of_val(cpus.0.as_slice());
            libc::syscall(libc::SYS_sched_getaffinity, 0, size, cpus.0.as_mut_ptr())
        };
        Errno::result(result)?;
        Ok(cpus)
    }

    /// Lets this process run on these only, as far as its cgroup has them.
    pub(super) fn set(&self) -> nix::Result<()> {
        // SAFETY: the pointer and the size in bytes are of one buffer.
        let result = unsafe {
            let size = size_of_val(self.0.as_slice());
            libc::syscall(libc::SYS_sched_setaffinity, 0, size, self.0.as_ptr())
        };
        Errno::result(result).map(drop)
    }
}

/// A bit for each of `numbers`, in words as the kernel takes them.
pub(super) fn bits(numbers: impl IntoIterator<Item = u32>) -> Vec<u64> {
    let mut words = Vec::new();
    for number in numbers {
        let word = number as usize / 64;
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        if let Some(word) = words.get_mut(word) {
            *word |= 1 << (number % 64);
        }
    }
    words
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
