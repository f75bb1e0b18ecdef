//! What is looked at now and then while a container runs, because nothing counts it to the end: the CPU
//! time of each of its processes on the host, and the bytes over its network.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use nacre_agent::container::cgroups::Cgroup;

use crate::config::Isolation;

/// How often to look, at most.
pub(super) const INTERVAL: Duration = Duration::from_millis(20);

/// How many processes are looked at; a workload may have more.
const MOST_PROCESSES: usize = 256;

/// How many threads of one.
const MOST_THREADS: usize = 64;

/// The parts of a VM on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The threads that run the guest.
    Vcpus,
    /// All else of the monitor: devices. QEMU's threads can't be told apart.
    Monitor,
    /// What serves the container's files.
    FileServer,
    /// The sandbox process.
    Sandbox,
    /// None of these.
    Other,
}

/// The sum of what was seen.
#[derive(Debug)]
pub(super) struct Samples {
    /// Whether a VM's parts are looked at. Without one, the container's cgroup counts all there is.
    has_parts: bool,
    /// The CPU time of each thread when it was last seen, by process and thread.
    threads: BTreeMap<(i32, i32), (Part, Duration)>,
    /// Bytes received and sent, when they were last seen.
    pub(super) network: Option<u64>,
    /// How many there were at first.
    before: Option<u64>,
    last: Option<Instant>,
}

impl Samples {
    pub(super) fn new(isolation: Isolation) -> Self {
        Self {
            has_parts: isolation == Isolation::Vm,
            threads: BTreeMap::new(),
            network: None,
            before: None,
            last: None,
        }
    }

    /// Looks, unless that was done a moment ago. `pid` stands for the container.
    pub(super) fn take(&mut self, cgroup: Option<&Cgroup>, pid: i32) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        if let Some(bytes) = network(pid) {
            // The namespace may be older than the container.
            let before = *self.before.get_or_insert(bytes);
            self.network = Some(bytes.saturating_sub(before));
        }
        let cgroup = cgroup.filter(|_| self.has_parts);
        let processes = cgroup.and_then(|cgroup| cgroup.processes().ok());
        for process in processes.into_iter().flatten().take(MOST_PROCESSES) {
            self.look_at(process);
        }
        self.last = Some(Instant::now());
    }

    fn look_at(&mut self, process: i32) {
        let tasks = format!("/proc/{process}/task");
        let of_process = comm(&format!("/proc/{process}"));
        for task in fs::read_dir(tasks)
            .into_iter()
            .flatten()
            .flatten()
            .take(MOST_THREADS)
        {
            let path = task.path();
            let thread = task.file_name().to_str().and_then(|name| name.parse().ok());
            let path = path.display().to_string();
            let (Some(thread), Some(time)) = (thread, run_time(&path)) else {
                continue;
            };
            let part = part(&of_process, &comm(&path));
            self.threads.insert((process, thread), (part, time));
        }
    }

    /// Returns the CPU time of a part, if it was seen.
    pub(super) fn of(&self, part: Part) -> Option<Duration> {
        let times = self.threads.values();
        let times = times.filter(|(of, _)| *of == part).map(|(_, time)| *time);
        times.reduce(|sum, time| sum + time)
    }
}

fn comm(directory: &str) -> String {
    let comm = fs::read_to_string(format!("{directory}/comm"));
    comm.unwrap_or_default().trim_end().to_owned()
}

/// Returns which part of a VM a thread is of, by the names of its process and its own.
fn part(process: &str, thread: &str) -> Part {
    let runs_guest = thread.starts_with("vcpu") || thread.starts_with("CPU ");
    match process {
        _ if runs_guest => Part::Vcpus,
        "nacre-files" => Part::FileServer,
        "nacre-monitor" => Part::Monitor,
        qemu if qemu.starts_with("qemu") => Part::Monitor,
        "nacre" => Part::Sandbox,
        _ => Part::Other,
    }
}

/// Returns the time that a thread has spent on a CPU: the first number of its `schedstat`, in
/// nanoseconds (Documentation/scheduler/sched-stats.rst).
fn run_time(directory: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("{directory}/schedstat")).ok()?;
    let nanoseconds = stat.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Returns how many bytes the interfaces of a process's network namespace have received and sent,
/// without the loopback's (proc_pid_net(5)).
fn network(pid: i32) -> Option<u64> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    Some(carried(&table))
}

fn carried(table: &str) -> u64 {
    let lines = table.lines().filter_map(|line| line.split_once(':'));
    let interfaces = lines.filter(|(name, _)| name.trim() != "lo");
    let bytes = interfaces.map(|(_, numbers)| {
        let numbers: Vec<u64> = numbers.split_whitespace().flat_map(str::parse).collect();
        numbers.first().unwrap_or(&0) + numbers.get(8).unwrap_or(&0)
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_interfaces_but_the_loopback() {
        let table = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  999      9    0    0    0     0          0         0  999      9    0    0    0     0       0          0
  eth0:  100      1    0    0    0     0          0         0   20      1    0    0    0     0       0          0
  eth1:    3      1    0    0    0     0          0         0    4      1    0    0    0     0       0          0
";
        assert_eq!(carried(table), 127);
    }

    #[test]
    fn this_process_has_run() {
        let mut samples = Samples::new(Isolation::Vm);
        samples.look_at(std::process::id() as i32);
        assert!(samples.of(Part::Other).unwrap() > Duration::ZERO);
        assert_eq!(samples.of(Part::Vcpus), None);
    }

    #[test]
    fn a_thread_is_of_the_part_that_its_names_say() {
        for (process, thread, expected) in [
            ("nacre-monitor", "vcpu0", Part::Vcpus),
            ("nacre-monitor", "vsock", Part::Monitor),
            ("nacre-files", "vhost-root", Part::FileServer),
            ("nacre", "nacre", Part::Sandbox),
            ("sh", "sh", Part::Other),
        ] {
            assert_eq!(part(process, thread), expected);
        }
    }
}
