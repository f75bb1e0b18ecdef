//! Reads the statistics of version 1: each controller's part.

use super::files::{Files, device, table, value};
use crate::container::cgroups::CgroupError;
use crate::container::kernel::cpu_list;
use crate::stats::{BlockIo, BlockIoEntry, HugePages, MemoryEntry, Stats};

/// `cpuacct.stat` counts in ticks, 100 per second on every architecture.
const TICK: u64 = 10_000_000;

pub(super) fn read(
    files: &Files<'_>,
    controllers: &[String],
    stats: &mut Stats,
) -> Result<(), CgroupError> {
    for controller in controllers {
        match controller.as_str() {
            "cpu" => throttling(files, stats)?,
            "cpuacct" => cpu_usage(files, stats)?,
            "cpuset" => cpuset(files, stats)?,
            "memory" => memory(files, stats)?,
            "pids" => stats.pids = files.pids()?,
            "blkio" => stats.blkio = block_io(files)?,
            "hugetlb" => huge_pages(files, stats)?,
            _ => {}
        }
    }
    Ok(())
}

fn throttling(files: &Files<'_>, stats: &mut Stats) -> Result<(), CgroupError> {
    let text = files.text("cpu.stat")?.unwrap_or_default();
    stats.cpu.throttling.periods = value(&text, "nr_periods");
    stats.cpu.throttling.throttled_periods = value(&text, "nr_throttled");
    stats.cpu.throttling.throttled_time = value(&text, "throttled_time");
    Ok(())
}

fn cpu_usage(files: &Files<'_>, stats: &mut Stats) -> Result<(), CgroupError> {
    let usage = &mut stats.cpu.usage;
    usage.total = files.number("cpuacct.usage")?;
    let ticks = files.text("cpuacct.stat")?.unwrap_or_default();
    usage.user = value(&ticks, "user").saturating_mul(TICK);
    usage.kernel = value(&ticks, "system").saturating_mul(TICK);
    let each = files.text("cpuacct.usage_percpu")?.unwrap_or_default();
    usage.percpu = each
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    // A heading, and then each CPU's number, time in user mode and time in kernel mode.
    let all = files.text("cpuacct.usage_all")?.unwrap_or_default();
    for line in all.lines().skip(1) {
        let mut columns = line.split(' ').skip(1).map(str::parse);
        if let (Some(Ok(user)), Some(Ok(kernel))) = (columns.next(), columns.next()) {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
    Ok(())
}

fn cpuset(files: &Files<'_>, stats: &mut Stats) -> Result<(), CgroupError> {
    let list = |name: &str| {
        let text = files.text(name)?.unwrap_or_default();
        let numbers = cpu_list::parse(&text).unwrap_or_default();
        Ok(numbers.into_iter().collect())
    };
    let set = &mut stats.cpuset;
    set.cpus = list("cpuset.cpus")?;
    set.mems = list("cpuset.mems")?;
    for (name, value) in [
        ("cpuset.cpu_exclusive", &mut set.cpu_exclusive),
        ("cpuset.mem_hardwall", &mut set.mem_hardwall),
        ("cpuset.mem_exclusive", &mut set.mem_exclusive),
        ("cpuset.memory_migrate", &mut set.memory_migrate),
        ("cpuset.memory_spread_page", &mut set.memory_spread_page),
        ("cpuset.memory_spread_slab", &mut set.memory_spread_slab),
        ("cpuset.memory_pressure", &mut set.memory_pressure),
        ("cpuset.sched_load_balance", &mut set.sched_load_balance),
    ] {
        *value = files.number(name)?;
    }
    let level = files.text("cpuset.sched_relax_domain_level")?;
    set.sched_relax_domain_level = level.unwrap_or_default().trim().parse().unwrap_or(0);
    Ok(())
}

fn memory(files: &Files<'_>, stats: &mut Stats) -> Result<(), CgroupError> {
    let text = files.text("memory.stat")?.unwrap_or_default();
    let memory = &mut stats.memory;
    memory.raw = table(&text);
    memory.cache = value(&text, "cache");
    for (name, entry) in [
        ("memory", &mut memory.usage),
        ("memory.memsw", &mut memory.swap),
        ("memory.kmem", &mut memory.kernel),
        ("memory.kmem.tcp", &mut memory.kernel_tcp),
    ] {
        *entry = MemoryEntry {
            limit: files.number(&format!("{name}.limit_in_bytes"))?,
            usage: files.number(&format!("{name}.usage_in_bytes"))?,
            max: files.number(&format!("{name}.max_usage_in_bytes"))?,
            failcnt: files.number(&format!("{name}.failcnt"))?,
        };
    }
    Ok(())
}

/// Reads the most detailed source that has counted something: BFQ where that is the scheduler, or
/// else the throttling layer, which sees all I/O but knows less.
fn block_io(files: &Files<'_>) -> Result<BlockIo, CgroupError> {
    let entries = |name: &str| {
        let text = files.text(name)?.unwrap_or_default();
        Ok::<_, CgroupError>(text.lines().filter_map(entry).collect::<Vec<_>>())
    };
    for source in ["bfq.", ""] {
        let serviced = entries(&format!("blkio.{source}io_serviced_recursive"))?;
        if !serviced.is_empty() {
            let rest = |name: &str| entries(&format!("blkio.{source}{name}_recursive"));
            return Ok(BlockIo {
                serviced,
                service_bytes: rest("io_service_bytes")?,
                queued: rest("io_queued")?,
                service_time: rest("io_service_time")?,
                wait_time: rest("io_wait_time")?,
                merged: rest("io_merged")?,
                time: rest("time")?,
                sectors: rest("sectors")?,
            });
        }
    }
    for suffix in ["_recursive", ""] {
        let serviced = entries(&format!("blkio.throttle.io_serviced{suffix}"))?;
        if !serviced.is_empty() {
            return Ok(BlockIo {
                serviced,
                service_bytes: entries(&format!("blkio.throttle.io_service_bytes{suffix}"))?,
                ..BlockIo::default()
            });
        }
    }
    Ok(BlockIo::default())
}

/// Parses a line like `8:0 Read 42` or `8:0 42`. The line with the total has no device.
fn entry(line: &str) -> Option<BlockIoEntry> {
    let words: Vec<&str> = line.split(' ').collect();
    let (number, op, value) = match words[..] {
        [number, op, value] => (number, op, value),
        [number, value] => (number, "", value),
        _ => return None,
    };
    let (major, minor) = device(number)?;
    Some(BlockIoEntry {
        major,
        minor,
        op: op.to_owned(),
        value: value.parse().ok()?,
    })
}

fn huge_pages(files: &Files<'_>, stats: &mut Stats) -> Result<(), CgroupError> {
    for size in files.between("hugetlb.", ".usage_in_bytes")? {
        let pages = HugePages {
            usage: files.number(&format!("hugetlb.{size}.usage_in_bytes"))?,
            max: files.number(&format!("hugetlb.{size}.max_usage_in_bytes"))?,
            failcnt: files.number(&format!("hugetlb.{size}.failcnt"))?,
        };
        stats.hugetlb.insert(size, pages);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::fake;
    use super::*;

    fn stats(controllers: &[&str], contents: &[(&str, &str)]) -> Stats {
        let directory = fake(contents);
        let controllers: Vec<String> = controllers.iter().map(|c| (*c).to_owned()).collect();
        let mut stats = Stats::default();
        read(&Files(directory.path()), &controllers, &mut stats).unwrap();
        stats
    }

    #[test]
    fn cpu_time_is_in_nanoseconds() {
        let stats = stats(
            &["cpu", "cpuacct"],
            &[
                (
                    "cpu.stat",
                    "nr_periods 3\nnr_throttled 2\nthrottled_time 1000\n",
                ),
                ("cpuacct.usage", "30\n"),
                ("cpuacct.stat", "user 1\nsystem 2\n"),
                ("cpuacct.usage_percpu", "10 20 \n"),
                ("cpuacct.usage_all", "cpu user system\n0 4 6\n1 8 12\n"),
            ],
        );
        let usage = stats.cpu.usage;
        assert_eq!((usage.user, usage.kernel), (10_000_000, 20_000_000));
        assert_eq!((usage.total, usage.percpu), (30, vec![10, 20]));
        assert_eq!(usage.percpu_user, [4, 8]);
        assert_eq!(usage.percpu_kernel, [6, 12]);
        assert_eq!(stats.cpu.throttling.throttled_time, 1000);
    }

    #[test]
    fn memory_has_its_four_entries() {
        let stats = stats(
            &["memory"],
            &[
                ("memory.stat", "cache 5\nrss 6\n"),
                ("memory.limit_in_bytes", "100\n"),
                ("memory.usage_in_bytes", "7\n"),
                ("memory.memsw.max_usage_in_bytes", "8\n"),
                ("memory.kmem.failcnt", "9\n"),
                ("memory.kmem.tcp.usage_in_bytes", "10\n"),
            ],
        );
        let memory = stats.memory;
        assert_eq!((memory.cache, memory.raw["rss"]), (5, 6));
        assert_eq!((memory.usage.limit, memory.usage.usage), (100, 7));
        assert_eq!((memory.swap.max, memory.kernel.failcnt), (8, 9));
        assert_eq!(memory.kernel_tcp.usage, 10);
    }

    #[test]
    fn block_io_is_from_bfq_or_else_from_throttling() {
        let throttle = (
            "blkio.throttle.io_serviced_recursive",
            "8:0 Read 5\n8:0 Total 5\nTotal 5\n",
        );
        let got = stats(
            &["blkio"],
            &[("blkio.bfq.io_serviced_recursive", "Total 0\n"), throttle],
        );
        let ops: Vec<_> = got
            .blkio
            .serviced
            .iter()
            .map(|e| (&*e.op, e.value))
            .collect();
        assert_eq!(ops, [("Read", 5), ("Total", 5)]);
        let bfq = ("blkio.bfq.io_serviced_recursive", "8:16 Write 3\n");
        let got = stats(&["blkio"], &[bfq, throttle]);
        assert_eq!(got.blkio.serviced[0].minor, 16);
    }

    #[test]
    fn sets_and_huge_pages_are_read() {
        let stats = stats(
            &["cpuset", "hugetlb"],
            &[
                ("cpuset.cpus", "0-1,3\n"),
                ("cpuset.mems", "0\n"),
                ("cpuset.sched_load_balance", "1\n"),
                ("cpuset.sched_relax_domain_level", "-1\n"),
                ("hugetlb.2MB.usage_in_bytes", "0\n"),
                ("hugetlb.2MB.rsvd.usage_in_bytes", "0\n"),
                ("hugetlb.2MB.failcnt", "4\n"),
            ],
        );
        assert_eq!(stats.cpuset.cpus, [0, 1, 3]);
        assert_eq!(stats.cpuset.sched_load_balance, 1);
        assert_eq!(stats.cpuset.sched_relax_domain_level, -1);
        assert_eq!(stats.hugetlb.len(), 1);
        assert_eq!(stats.hugetlb["2MB"].failcnt, 4);
    }
}
