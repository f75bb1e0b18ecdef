//! Checks what `--isolation=vm` needs.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use nacre_agent::container::in_user_namespace;
use nacre_vmm::{KvmError, Landlock, Qemu, QemuError, kvm, qemu::Version};
use nix::unistd::geteuid;

use crate::{
    config::{
        Bytes, Config,
        hypervisor::{Hypervisor, Preference, kvm_remedy, qemu_remedy},
        nested,
    },
    log::chain,
};

use super::{
    confinement::{self, Missed},
    finding::Finding,
    host::{self, CgroupVersion},
    users,
};

pub(super) fn examine(config: &Config, hypervisor: Option<Hypervisor>) -> Vec<Finding> {
    let preferred = Hypervisor::preferred(hypervisor, config.vm.hypervisor);
    let qemu = Qemu::at(config.vm.qemu()).check();
    let kvm = kvm::check();
    let nesting = nesting(kvm.as_ref().ok().map(kvm::check_nested), config.vm.nested);
    let [kvm, qemu] = hypervisors(preferred, kvm.map(drop), qemu);
    let findings = vec![
        kvm,
        qemu,
        virtualized(is_virtualized()),
        nesting,
        guest_kernel(&config.vm.kernel()),
        agent(&config.vm.agent()),
        memory(config.vm.memory.0, available_memory()),
        privileges(Caller::find(), &confinement::user_namespaces_for_users()),
        cgroups(CgroupVersion::find(Path::new("/sys/fs/cgroup"))),
        confinement::namespaces(&confinement::missing_namespaces()),
        confinement::seccomp(confinement::has_filters(), Missed::ByAll),
        confinement::violations(confinement::logs_violations()),
        confinement::landlock(Landlock::find()),
    ];
    findings.into_iter().chain(users::examine()).collect()
}

/// Who asks for a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Root { administers: bool },
    NamespacesRoot { administers: bool },
    OrdinaryUser,
}

impl Caller {
    fn find() -> Self {
        let administers = host::has_cap_sys_admin();
        match (geteuid().is_root(), in_user_namespace()) {
            (true, false) => Self::Root { administers },
            (true, true) => Self::NamespacesRoot { administers },
            (false, _) => Self::OrdinaryUser,
        }
    }
}

/// Checks what can run a VM. Only the lack of what is preferred is an error.
fn hypervisors(
    preferred: Preference,
    kvm: Result<(), KvmError>,
    qemu: Result<Version, QemuError>,
) -> [Finding; 2] {
    let kvm_needed = match preferred {
        Preference::Kvm => true,
        Preference::Auto => qemu.is_err(),
        Preference::Qemu => false,
    };
    let qemu_needed = match preferred {
        Preference::Kvm => false,
        Preference::Auto => kvm.is_err(),
        Preference::Qemu => true,
    };
    let finding = |needed| {
        if needed {
            Finding::error
        } else {
            Finding::warning
        }
    };
    let kvm = match kvm {
        Ok(()) => Finding::ok("kvm", "/dev/kvm can run guests"),
        Err(error) => {
            let name = match error {
                KvmError::Missing(_) => "kvm-missing",
                KvmError::Permission(_) => "kvm-permission",
                _ => "kvm-unusable",
            };
            finding(kvm_needed)(name, chain(&error), kvm_remedy(&error))
        }
    };
    let qemu = match qemu {
        Ok(version) if qemu_needed => Finding::ok(
            "qemu",
            format!("QEMU {version} emulates the processor of guests"),
        ),
        Ok(version) => Finding::ok(
            "qemu",
            format!("QEMU {version} could emulate the processor of guests (--hypervisor=qemu)"),
        ),
        // A host that runs guests with KVM doesn't need QEMU.
        Err(error) if !qemu_needed => Finding::ok(
            "qemu-unusable",
            format!("guests can't be emulated: {}", chain(&error)),
        ),
        Err(error) => Finding::error("qemu-unusable", chain(&error), qemu_remedy(&error)),
    };
    [kvm, qemu]
}

fn virtualized(is_virtualized: bool) -> Finding {
    let message = if is_virtualized {
        "this host is a virtual machine, so its guests are nested"
    } else {
        "this host is not a virtual machine"
    };
    Finding::ok("nested", message)
}

/// Checks whether containers could make VMs of their own with KVM, if KVM can run guests at all.
/// That is missed only by those who ask for it.
fn nesting(kvm: Option<Result<(), KvmError>>, configured: Option<bool>) -> Finding {
    const NAME: &str = "nested-containers";
    match kvm {
        None => Finding::ok(
            NAME,
            "only emulated containers could have virtual machines of their own",
        ),
        Some(Ok(())) => Finding::ok(
            NAME,
            "containers could have virtual machines of their own (dev.nacre.vm.nested)",
        ),
        Some(Err(error)) if configured == Some(true) => {
            Finding::error(NAME, chain(&error), nested::remedy(&error))
        }
        Some(Err(error)) => Finding::ok(
            NAME,
            format!(
                "containers can't have virtual machines of their own: {}",
                chain(&error)
            ),
        ),
    }
}

fn guest_kernel(path: &Path) -> Finding {
    let at = path.display();
    match is_elf(path) {
        Ok(()) => Finding::ok("guest-kernel", format!("the guest kernel is {at}")),
        Err(error) => Finding::error(
            "guest-kernel",
            format!("there is no guest kernel at {at}: {error}"),
            "build one with guest-kernel-config/build, or say where it is with vm.kernel in the \
             configuration file",
        ),
    }
}

fn agent(path: &Path) -> Finding {
    let at = path.display();
    match is_elf(path) {
        Ok(()) => Finding::ok("agent", format!("the agent is {at}")),
        Err(error) => Finding::error(
            "agent",
            format!("there is no agent at {at}: {error}"),
            "put nacre-agent, which is built with nacre, there, or say where it is with vm.agent \
             in the configuration file",
        ),
    }
}

/// Compares what a VM needs with what is available, both in bytes.
fn memory(needed: u64, available: Option<u64>) -> Finding {
    let Some(available) = available else {
        return Finding::ok("memory", "how much memory is available can't be told");
    };
    let message = format!(
        "{} MiB of memory are available, a VM without limits gets {}",
        available >> 20,
        Bytes(needed)
    );
    if available < needed {
        let remedy = "free memory, or lower vm.memory in the configuration file";
        return Finding::warning("memory", message, remedy);
    }
    Finding::ok("memory", message)
}

fn privileges(caller: Caller, user_namespaces: &Result<(), &'static str>) -> Finding {
    const NAME: &str = "privileges";
    match (caller, user_namespaces) {
        (Caller::Root { administers: true }, _) => {
            Finding::ok(NAME, "mount namespaces can be made")
        }
        (Caller::NamespacesRoot { administers: true }, _) => Finding::ok(
            NAME,
            "this is the root of a user namespace: VMs have the rights of that alone",
        ),
        (Caller::Root { .. } | Caller::NamespacesRoot { .. }, _) => Finding::error(
            NAME,
            "mount namespaces can't be made: CAP_SYS_ADMIN is missing",
            "run nacre as root",
        ),
        (Caller::OrdinaryUser, Ok(())) => Finding::ok(
            NAME,
            "this is an ordinary user: VMs run rootless, each in a user namespace",
        ),
        (Caller::OrdinaryUser, Err(why)) => Finding::error(
            NAME,
            format!("this is an ordinary user, who can't make user namespaces: {why}"),
            "run nacre as root, or allow user namespaces",
        ),
    }
}

fn cgroups(version: CgroupVersion) -> Finding {
    let message =
        format!("the host's control groups are {version}; a VM's limits don't depend on them");
    Finding::ok("cgroups", message)
}

/// Returns whether the processor reports a hypervisor below it.
fn is_virtualized() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| {
        info.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
    })
}

/// Checks that a file is a 64-bit x86 ELF file, as the guest kernel and the agent are.
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

/// Returns the kernel's estimate of the memory available without swapping, in bytes.
fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn little_memory_is_a_warning() {
        assert_eq!(memory(2, Some(1)).level, Level::Warning);
        assert_eq!(memory(2, Some(2)).level, Level::Ok);
    }

    #[test]
    fn an_ordinary_user_needs_user_namespaces() {
        let (yes, no) = (true, false);
        for (caller, namespaces, level) in [
            (Caller::Root { administers: yes }, Err("no"), Level::Ok),
            (Caller::Root { administers: no }, Ok(()), Level::Error),
            (
                Caller::NamespacesRoot { administers: yes },
                Err("no"),
                Level::Ok,
            ),
            (
                Caller::NamespacesRoot { administers: no },
                Ok(()),
                Level::Error,
            ),
            (Caller::OrdinaryUser, Ok(()), Level::Ok),
            (Caller::OrdinaryUser, Err("no"), Level::Error),
        ] {
            assert_eq!(privileges(caller, &namespaces).level, level, "{caller:?}");
        }
    }

    #[test]
    fn a_useless_kvm_is_named_for_programs() {
        let error = || io::Error::other("");
        let unusable = KvmError::Unusable {
            reason: "it is a toy".into(),
        };
        for (checked, name) in [
            (KvmError::Missing(error()), "kvm-missing"),
            (KvmError::Permission(error()), "kvm-permission"),
            (unusable, "kvm-unusable"),
        ] {
            let [finding, _] = hypervisors(Preference::Kvm, Err(checked), no_qemu());
            assert_eq!((finding.name, finding.level), (name, Level::Error));
            assert!(finding.remedy.is_some());
        }
    }

    #[test]
    fn nesting_is_needed_if_it_is_configured() {
        let lacking = || {
            let reason = "it offers none".into();
            Some(Err(KvmError::NotNested { reason }))
        };
        for (kvm, configured, level) in [
            (None, Some(true), Level::Ok),
            (Some(Result::Ok(())), None, Level::Ok),
            (lacking(), None, Level::Ok),
            (lacking(), Some(false), Level::Ok),
            (lacking(), Some(true), Level::Error),
        ] {
            assert_eq!(nesting(kvm, configured).level, level);
        }
    }

    fn no_qemu() -> Result<Version, QemuError> {
        Qemu::at("/nonexistent").check()
    }

    #[test]
    fn a_hypervisor_is_needed_if_it_is_preferred() {
        use Level::{Error, Ok, Warning};
        let no_kvm = || Err(KvmError::Missing(io::Error::other("")));
        let some_qemu = || Result::Ok(nacre_vmm::qemu::OLDEST);
        let levels = |preferred, kvm, qemu| hypervisors(preferred, kvm, qemu).map(|f| f.level);
        for (preferred, with_qemu_only, with_kvm_only, with_neither) in [
            (Preference::Kvm, [Error, Ok], [Ok, Ok], [Error, Ok]),
            (
                Preference::Qemu,
                [Warning, Ok],
                [Ok, Error],
                [Warning, Error],
            ),
            (Preference::Auto, [Warning, Ok], [Ok, Ok], [Error, Error]),
        ] {
            assert_eq!(levels(preferred, no_kvm(), some_qemu()), with_qemu_only);
            assert_eq!(levels(preferred, Result::Ok(()), no_qemu()), with_kvm_only);
            assert_eq!(levels(preferred, no_kvm(), no_qemu()), with_neither);
        }
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
}
