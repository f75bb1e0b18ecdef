//! Counts what a container makes the host's kernel do: system calls, and exits of its VM. The kernel
//! counts these trace points for a cgroup (perf_event_open(2)), from before the workload's first
//! instruction on.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use nacre_agent::container::{cgroups::Cgroup, outside::cpu_ranges};

/// Where tracefs is mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// From linux/perf_event.h.
const TYPE_TRACEPOINT: u32 = 2;
const FLAG_CGROUP: libc::c_ulong = 1 << 2;
const FLAG_CLOEXEC: libc::c_ulong = 1 << 3;

/// The first published size of `struct perf_event_attr`, which has all that is used here.
const SIZE: u32 = 64;

/// The start of `struct perf_event_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

/// What was counted; `None` for what this kernel has no such point for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) system_calls: Option<u64>,
    pub(super) exits: Option<u64>,
}

/// The counters of a cgroup.
#[derive(Debug)]
pub(super) struct Counters {
    system_calls: Option<Counter>,
    exits: Option<Counter>,
}

impl Counters {
    /// Begins to count.
    ///
    /// # Errors
    ///
    /// Returns why nothing can be counted here.
    pub(super) fn open(cgroup: Option<&Cgroup>) -> Result<Self, String> {
        let mut tracefs = TRACEFS.iter().map(Path::new);
        let tracefs = tracefs
            .find(|path| path.join("events").is_dir())
            .ok_or("tracefs isn't mounted at /sys/kernel/tracing")?;
        let cgroup = cgroup
            .and_then(directory)
            .ok_or("the container has no cgroup that the kernel counts events for (perf_event)")?;
        let cgroup = File::open(cgroup).map_err(|e| format!("can't open its cgroup: {e}"))?;
        let counter = |point: &str| {
            let id = fs::read_to_string(tracefs.join("events").join(point).join("id")).ok()?;
            Some(Counter::open(id.trim().parse().ok()?, &cgroup))
        };
        let opened = |counter: Option<io::Result<Counter>>| {
            counter
                .transpose()
                .map_err(|e| format!("the kernel doesn't count for us: {e}"))
        };
        Ok(Self {
            system_calls: opened(counter("raw_syscalls/sys_enter"))?,
            exits: opened(counter("kvm/kvm_exit"))?,
        })
    }

    /// Returns what was counted up to now.
    pub(super) fn read(&self) -> Counts {
        let count = |counter: &Option<Counter>| counter.as_ref()?.read().ok();
        Counts {
            system_calls: count(&self.system_calls),
            exits: count(&self.exits).filter(|count| *count > 0),
        }
    }
}

/// Returns the directory of a cgroup whose events the kernel counts.
fn directory(cgroup: &Cgroup) -> Option<&Path> {
    let mut v1 = cgroup.v1_paths();
    let v1 = v1.find(|(controllers, _)| controllers.iter().any(|it| it == "perf_event"));
    v1.map(|(_, path)| path).or(cgroup.v2_path())
}

/// A trace point, counted on each CPU.
#[derive(Debug)]
struct Counter(Vec<File>);

impl Counter {
    fn open(point: u64, cgroup: &File) -> io::Result<Self> {
        let attributes = Attributes {
            kind: TYPE_TRACEPOINT,
            size: SIZE,
            config: point,
            ..Attributes::default()
        };
        let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let cpus = cpus(&online).into_iter();
        let files = cpus.map(|cpu| {
            let flags = FLAG_CGROUP | FLAG_CLOEXEC;
            // SAFETY: the attributes are valid for the call, which reads as many bytes as they say;
            // all else are numbers.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_perf_event_open,
                    &raw const attributes,
                    cgroup.as_raw_fd(),
                    cpu,
                    -1,
                    flags,
                )
            };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the call has returned a new descriptor, which nobody else has.
            let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
            Ok(File::from(fd))
        });
        Ok(Self(files.collect::<io::Result<_>>()?))
    }

    fn read(&self) -> io::Result<u64> {
        let mut sum = 0;
        for mut file in &self.0 {
            let mut count = [0; 8];
            file.read_exact(&mut count)?;
            sum += u64::from_ne_bytes(count);
        }
        Ok(sum)
    }
}

/// Returns the CPUs of a list such as `0-3,8`, which the kernel has written.
fn cpus(list: &str) -> Vec<u32> {
    let ranges = cpu_ranges(list).unwrap_or_default().into_iter();
    ranges.flat_map(|(first, last)| first..=last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus() {
        assert_eq!(cpus("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cpus("0\n"), [0]);
    }

    #[test]
    fn the_attributes_are_as_long_as_they_say() {
        assert_eq!(size_of::<Attributes>(), SIZE as usize);
    }
}
