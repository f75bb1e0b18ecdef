//! `nacre doctor`: whether this host can run containers, and what to do if it can't.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use nacre_vmm::{KvmError, kvm};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    cli::{Doctor, Global, ReportFormat},
    config::{Config, size::Bytes},
    error::Error,
    isolation::{Isolation, vm},
    log::chain,
};

use super::{print, print_json};

/// Something that was looked at.
#[derive(Debug)]
enum Finding {
    Kvm(Result<(), KvmError>),
    Virtualized(bool),
    Kernel(PathBuf, Result<(), io::Error>),
    Agent(PathBuf, Result<(), io::Error>),
    Memory { needed: u64, available: Option<u64> },
    Privileges { complete: bool },
    Cgroups(CgroupVersion),
    ProcessIsolation,
}

/// How the host's control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    None,
    V1,
    Hybrid,
    V2,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be, or without importance.
    Ok,
    /// Works, but not well.
    Warning,
    /// The isolation that it is about can't be had.
    Error,
}

pub(super) fn doctor(global: &Global, arguments: &Doctor) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let chosen = global
        .isolation
        .or(config.isolation)
        .unwrap_or(Isolation::Vm);
    let vm = examine_vm(&config);
    let process = [Finding::ProcessIsolation];
    let groups: [(Isolation, &[Finding]); 2] =
        [(Isolation::Vm, &vm), (Isolation::Process, &process)];
    match arguments.format {
        ReportFormat::Text => print(&text(&groups, chosen))?,
        ReportFormat::Json => print_json(&document(&groups, chosen))?,
    }
    let possible = groups
        .iter()
        .any(|(isolation, findings)| *isolation == chosen && can(findings));
    Ok(u8::from(!possible))
}

fn examine_vm(config: &Config) -> Vec<Finding> {
    let kernel = config.vm.kernel();
    let agent = config.vm.agent();
    vec![
        Finding::Kvm(kvm::check().map(drop)),
        Finding::Virtualized(is_virtualized()),
        Finding::Kernel(kernel.clone(), is_elf(&kernel)),
        Finding::Agent(agent.clone(), is_elf(&agent)),
        Finding::Memory {
            needed: config.vm.memory.0,
            available: available_memory(),
        },
        Finding::Privileges {
            complete: can_mount(),
        },
        Finding::Cgroups(cgroup_version(Path::new("/sys/fs/cgroup"))),
    ]
}

/// Whether an isolation can be had.
fn can(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.level() != Level::Error)
}

impl Finding {
    /// Its name for programs, which doesn't change.
    fn name(&self) -> &'static str {
        match self {
            Self::Kvm(Ok(())) => "kvm",
            Self::Kvm(Err(KvmError::Missing(_))) => "kvm-missing",
            Self::Kvm(Err(KvmError::Permission(_))) => "kvm-permission",
            Self::Kvm(Err(_)) => "kvm-unusable",
            Self::Virtualized(_) => "nested",
            Self::Kernel(..) => "guest-kernel",
            Self::Agent(..) => "agent",
            Self::Memory { .. } => "memory",
            Self::Privileges { .. } => "privileges",
            Self::Cgroups(_) => "cgroups",
            Self::ProcessIsolation => "not-implemented",
        }
    }

    fn level(&self) -> Level {
        match self {
            Self::Kvm(Err(_))
            | Self::Kernel(_, Err(_))
            | Self::Agent(_, Err(_))
            | Self::Privileges { complete: false }
            | Self::ProcessIsolation => Level::Error,
            Self::Memory {
                needed,
                available: Some(available),
            } if available < needed => Level::Warning,
            _ => Level::Ok,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Kvm(Ok(())) => "/dev/kvm can run guests".into(),
            Self::Kvm(Err(error)) => chain(error),
            Self::Virtualized(true) => {
                "this host is a virtual machine, so its guests are nested".into()
            }
            Self::Virtualized(false) => "this host is not a virtual machine".into(),
            Self::Kernel(path, Ok(())) => format!("the guest kernel is {}", path.display()),
            Self::Kernel(path, Err(error)) => {
                format!("there is no guest kernel at {}: {error}", path.display())
            }
            Self::Agent(path, Ok(())) => format!("the agent is {}", path.display()),
            Self::Agent(path, Err(error)) => {
                format!("there is no agent at {}: {error}", path.display())
            }
            Self::Memory { needed, available } => match available {
                Some(available) => format!(
                    "{} MiB of memory are available, a VM without limits gets {}",
                    available >> 20,
                    Bytes(*needed)
                ),
                None => "how much memory is available can't be told".into(),
            },
            Self::Privileges { complete: true } => "mount namespaces can be made".into(),
            Self::Privileges { complete: false } => {
                "mount namespaces can't be made: CAP_SYS_ADMIN is missing".into()
            }
            Self::Cgroups(version) => {
                let version = match version {
                    CgroupVersion::None => "not mounted",
                    CgroupVersion::V1 => "version 1",
                    CgroupVersion::Hybrid => "version 1, with version 2 beside it",
                    CgroupVersion::V2 => "version 2",
                };
                format!(
                    "the host's control groups are {version}; a VM's limits don't depend on them"
                )
            }
            Self::ProcessIsolation => {
                "isolation \"process\" isn't in this version of nacre yet".into()
            }
        }
    }

    /// What to do about it.
    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Kvm(Err(error)) => Some(vm::remedy(error)),
            Self::Kernel(_, Err(_)) => Some(
                "build one with guest-kernel-config/build, or say where it is with vm.kernel in \
                 the configuration file",
            ),
            Self::Agent(_, Err(_)) => Some(
                "put nacre-agent, which is built with nacre, there, or say where it is with \
                 vm.agent in the configuration file",
            ),
            Self::Memory { .. } if self.level() != Level::Ok => {
                Some("free memory, or lower vm.memory in the configuration file")
            }
            Self::Privileges { complete: false } => Some("run nacre as root"),
            Self::ProcessIsolation => Some("use --isolation=vm"),
            _ => None,
        }
    }
}

fn text(groups: &[(Isolation, &[Finding])], chosen: Isolation) -> String {
    let mut text = String::new();
    for (isolation, findings) in groups {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "isolation {}{}: {}",
            isolation.name(),
            if *isolation == chosen {
                " (chosen)"
            } else {
                ""
            },
            if can(findings) {
                "can be had"
            } else {
                "can't be had"
            }
        );
        for finding in *findings {
            let mark = match finding.level() {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            let _ = writeln!(text, "  {mark:8}{}", finding.message());
            if let Some(remedy) = finding.remedy() {
                let _ = writeln!(text, "          to do: {remedy}");
            }
        }
    }
    text
}

fn document(groups: &[(Isolation, &[Finding])], chosen: Isolation) -> Value {
    let isolations: serde_json::Map<String, Value> = groups
        .iter()
        .map(|(isolation, findings)| {
            let group = json!({
                "possible": can(findings),
                "findings": findings.iter().map(|finding| json!({
                    "name": finding.name(),
                    "level": finding.level(),
                    "message": finding.message(),
                    "remedy": finding.remedy(),
                })).collect::<Vec<_>>(),
            });
            (isolation.name().to_owned(), group)
        })
        .collect();
    json!({"chosen": chosen, "isolation": isolations})
}

/// Whether the processor says that a hypervisor is below it.
fn is_virtualized() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| {
        info.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
    })
}

/// Whether a file is a 64-bit x86 ELF file, as guest kernel and agent are.
fn is_elf(path: &Path) -> io::Result<()> {
    let mut header = [0; 20];
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let read = file.take(20).read(&mut header)?;
    // Magic number, ELFCLASS64, ELFDATA2LSB; at 18 the machine, EM_X86_64.
    if read == 20 && header.starts_with(b"\x7fELF\x02\x01") && header[18..] == [62, 0] {
        Ok(())
    } else {
        Err(io::Error::other("not an ELF file for this processor"))
    }
}

/// The kernel's estimate of what can be had without swapping, in bytes.
fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether this process has CAP_SYS_ADMIN (bit 21) in its effective set.
fn can_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set >> CAP_SYS_ADMIN & 1 == 1)
    })
}

fn cgroup_version(mount: &Path) -> CgroupVersion {
    if mount.join("cgroup.controllers").exists() {
        CgroupVersion::V2
    } else if mount.join("unified/cgroup.controllers").exists() {
        CgroupVersion::Hybrid
    } else if fs::read_dir(mount).is_ok_and(|mut entries| entries.next().is_some()) {
        CgroupVersion::V1
    } else {
        CgroupVersion::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unusable() -> Finding {
        Finding::Kvm(Err(KvmError::Unusable {
            reason: "it is a toy".into(),
        }))
    }

    #[test]
    fn an_error_makes_an_isolation_impossible_and_a_warning_does_not() {
        let little = Finding::Memory {
            needed: 2,
            available: Some(1),
        };
        assert_eq!(little.level(), Level::Warning);
        assert!(can(&[Finding::Kvm(Ok(())), little]));
        assert!(!can(&[Finding::Kvm(Ok(())), unusable()]));
    }

    #[test]
    fn what_is_wrong_has_a_remedy() {
        let errors = [
            unusable(),
            Finding::Kvm(Err(KvmError::Missing(io::Error::other("")))),
            Finding::Kvm(Err(KvmError::Permission(io::Error::other("")))),
            Finding::Kernel("/k".into(), Err(io::Error::other(""))),
            Finding::Agent("/a".into(), Err(io::Error::other(""))),
            Finding::Privileges { complete: false },
            Finding::ProcessIsolation,
        ];
        for finding in errors {
            assert_eq!(finding.level(), Level::Error, "{finding:?}");
            assert!(finding.remedy().is_some(), "{finding:?}");
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let vm = [unusable()];
        let groups: [(Isolation, &[Finding]); 1] = [(Isolation::Vm, &vm)];
        let text = text(&groups, Isolation::Vm);
        assert!(
            text.starts_with("isolation vm (chosen): can't be had\n"),
            "{text}"
        );
        assert!(text.contains("it is a toy"));
        let document = document(&groups, Isolation::Vm);
        assert_eq!(document["chosen"], "vm");
        assert_eq!(document["isolation"]["vm"]["possible"], false);
        let finding = &document["isolation"]["vm"]["findings"][0];
        assert_eq!(finding["name"], "kvm-unusable");
        assert_eq!(finding["level"], "error");
    }

    #[test]
    fn a_script_is_no_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinux");
        assert!(is_elf(&path).is_err());
        fs::write(&path, "#!/bin/sh\nexit 0 # longer than a header\n").unwrap();
        assert!(is_elf(&path).is_err());
        assert!(is_elf(directory.path()).is_err());
        assert!(is_elf(Path::new("/proc/self/exe")).is_ok());
    }

    #[test]
    fn cgroup_hierarchies_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path();
        assert_eq!(cgroup_version(mount), CgroupVersion::None);
        fs::create_dir_all(mount.join("unified")).unwrap();
        assert_eq!(cgroup_version(mount), CgroupVersion::V1);
        fs::write(mount.join("unified/cgroup.controllers"), "").unwrap();
        assert_eq!(cgroup_version(mount), CgroupVersion::Hybrid);
        fs::write(mount.join("cgroup.controllers"), "").unwrap();
        assert_eq!(cgroup_version(mount), CgroupVersion::V2);
    }
}
