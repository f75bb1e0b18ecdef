//! The figures that a comparison shows, and where each comes from.

use std::time::Duration;

use nacre_agent::stats::Stats;

use crate::text::Unit;

use super::{report::Figure, sample::Part, summary::Measured, trial::Trial};

const EVERY_RUN: &str = "not every run has it";
const NO_CGROUP: &str = "the container has no cgroup here";
const NO_GUEST: &str = "not every guest has told it";
const NOT_COUNTED: &str = "this host's kernel, or its version of cgroups, doesn't count it";
const NO_OUTPUT: &str = "not every run has printed something";
const NO_PART: &str = "there is no such part of its own";
const TOO_SHORT: &str = "it used too little for the kernel to tell its own part";

/// Where a figure comes from.
struct Source {
    key: &'static str,
    name: &'static str,
    unit: Unit,
    /// What it is of one run.
    of: fn(&Trial) -> Option<f64>,
    /// Why a run may be without.
    missing: &'static str,
}

const SOURCES: &[Source] = &[
    Source {
        key: "time_to_first_byte",
        name: "to the first byte",
        unit: Unit::Seconds,
        of: |it| it.first_byte.map(seconds),
        missing: NO_OUTPUT,
    },
    Source {
        key: "time_to_exit",
        name: "to the exit",
        unit: Unit::Seconds,
        of: |it| Some(seconds(it.exit)),
        missing: EVERY_RUN,
    },
    Source {
        key: "cpu_workload",
        name: "CPU of the workload",
        unit: Unit::Seconds,
        of: |it| it.used.map(|used| nanoseconds(used.cpu)),
        missing: NO_GUEST,
    },
    Source {
        key: "cpu_workload_kernel",
        name: "  of it in its kernel",
        unit: Unit::Seconds,
        of: |it| {
            it.used
                .map(|used| used.cpu_in_kernel)
                .filter(|it| *it > 0)
                .map(nanoseconds)
        },
        missing: TOO_SHORT,
    },
    Source {
        key: "cpu_host",
        name: "CPU of the container on the host",
        unit: Unit::Seconds,
        of: |it| counted(it, |stats| stats.cpu.usage.total).map(nanoseconds),
        missing: NO_CGROUP,
    },
    Source {
        key: "cpu_host_kernel",
        name: "  of it in the host's kernel",
        unit: Unit::Seconds,
        of: |it| {
            counted(it, |stats| stats.cpu.usage.kernel)
                .filter(|it| *it > 0)
                .map(nanoseconds)
        },
        missing: TOO_SHORT,
    },
    Source {
        key: "cpu_vcpus",
        name: "  of it running the guest",
        unit: Unit::Seconds,
        of: |it| it.samples.of(Part::Vcpus).map(seconds),
        missing: NO_PART,
    },
    Source {
        key: "cpu_monitor",
        name: "  of it in the monitor, or QEMU",
        unit: Unit::Seconds,
        of: |it| it.samples.of(Part::Monitor).map(seconds),
        missing: NO_PART,
    },
    Source {
        key: "cpu_file_server",
        name: "  of it serving files",
        unit: Unit::Seconds,
        of: |it| it.samples.of(Part::FileServer).map(seconds),
        missing: NO_PART,
    },
    Source {
        key: "cpu_sandbox",
        name: "  of it in the sandbox process",
        unit: Unit::Seconds,
        of: |it| it.samples.of(Part::Sandbox).map(seconds),
        missing: NO_PART,
    },
    Source {
        key: "cpu_commands",
        name: "CPU of nacre's commands",
        unit: Unit::Seconds,
        of: |it| Some(seconds(it.commands)),
        missing: EVERY_RUN,
    },
    Source {
        key: "memory_workload",
        name: "memory of the workload, at most",
        unit: Unit::Bytes,
        of: |it| it.used.and_then(|used| known(used.memory)),
        missing: NOT_COUNTED,
    },
    Source {
        key: "memory_host",
        name: "memory on the host, at most",
        unit: Unit::Bytes,
        of: |it| known(it.stats.as_ref()?.memory.usage.max),
        missing: NOT_COUNTED,
    },
    Source {
        key: "memory_host_after",
        name: "memory on the host, after the end",
        unit: Unit::Bytes,
        of: |it| {
            // Without a memory controller nothing of it is there.
            let memory = &it.stats.as_ref()?.memory;
            (!memory.raw.is_empty()).then_some(memory.usage.usage as f64)
        },
        missing: NOT_COUNTED,
    },
    Source {
        key: "storage_root",
        name: "disk space of what it wrote",
        unit: Unit::Bytes,
        of: |it| Some(it.changes.bytes as f64),
        missing: EVERY_RUN,
    },
    Source {
        key: "storage_written",
        name: "written to disks",
        unit: Unit::Bytes,
        of: written,
        missing: NOT_COUNTED,
    },
    Source {
        key: "network",
        name: "carried by its network",
        unit: Unit::Bytes,
        of: |it| it.samples.network.map(|bytes| bytes as f64),
        missing: "it ended too soon to be seen",
    },
    Source {
        key: "system_calls_host",
        name: "system calls to the host's kernel",
        unit: Unit::Count,
        of: |it| it.counts.as_ref().ok()?.system_calls.map(|it| it as f64),
        missing: NOT_COUNTED,
    },
    Source {
        key: "vm_exits",
        name: "exits of the VM to the host",
        unit: Unit::Count,
        of: |it| it.counts.as_ref().ok()?.exits.map(|it| it as f64),
        missing: "KVM runs no part of it, or this host's kernel doesn't count it",
    },
];

/// Sums up the runs of both modes.
pub(super) fn figures(process: &[Trial], vm: &[Trial]) -> Vec<Figure> {
    let is_whole = process.iter().chain(vm).all(Trial::is_whole);
    let figure = |source: &Source| {
        let measured = |trials: &[Trial]| {
            let runs = trials.iter().map(source.of);
            let said = trials.iter().find_map(|it| it.counts.as_ref().err());
            let missing = match (source.unit, said) {
                (Unit::Count, Some(why)) => why,
                _ => source.missing,
            };
            Measured::new(runs, missing)
        };
        let figure = |process, vm| Figure::new(source.key, source.name, source.unit, process, vm);
        let figure = figure(measured(process), measured(vm));
        if is_whole {
            figure
        } else {
            figure.without_verdict("not every run came to its end")
        }
    };
    SOURCES.iter().map(figure).collect()
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn nanoseconds(count: u64) -> f64 {
    count as f64 / 1e9
}

fn counted(trial: &Trial, of: impl Fn(&Stats) -> u64) -> Option<u64> {
    trial.stats.as_ref().map(of)
}

/// Returns a number of bytes that is 0 only if it wasn't counted.
fn known(bytes: u64) -> Option<f64> {
    (bytes > 0).then_some(bytes as f64)
}

/// Returns how many bytes were written, where block I/O is counted at all.
fn written(trial: &Trial) -> Option<f64> {
    let entries = &trial.stats.as_ref()?.blkio.service_bytes;
    let written = entries.iter().filter(|entry| entry.op == "Write");
    let bytes: u64 = written.map(|entry| entry.value).sum();
    (!entries.is_empty()).then_some(bytes as f64)
}
