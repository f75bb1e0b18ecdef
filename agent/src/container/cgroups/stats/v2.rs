//! Reads the statistics of version 2.

use super::files::{Files, device, table, value};
use crate::container::cgroups::CgroupError;
use crate::stats::{BlockIo, BlockIoEntry, HugePages, MemoryEntry, Stats};

/// cgroup2 counts time in microseconds.
const MICROSECOND: u64 = 1000;

pub(super) fn read(files: &Files<'_>, stats: &mut Stats) -> Result<(), CgroupError> {
    if let Some(text) = files.text("cpu.stat")? {
        let time = |key| value(&text, key).saturating_mul(MICROSECOND);
        stats.cpu.usage.total = time("usage_usec");
        stats.cpu.usage.user = time("user_usec");
        stats.cpu.usage.kernel = time("system_usec");
        stats.cpu.throttling.periods = value(&text, "nr_periods");
        stats.cpu.throttling.throttled_periods = value(&text, "nr_throttled");
        stats.cpu.throttling.throttled_time = time("throttled_usec");
    }
    if let Some(text) = files.text("memory.stat")? {
        stats.memory.raw = table(&text);
        stats.memory.cache = value(&text, "file");
        stats.memory.usage = entry(files, "memory")?;
        stats.memory.swap = with_swap(&stats.memory.usage, &entry(files, "memory.swap")?);
    }
    stats.pids = files.pids()?;
    if let Some(text) = files.text("io.stat")? {
        stats.blkio = block_io(&text);
    }
    for size in files.between("hugetlb.", ".current")? {
        stats
            .hugetlb
            .insert(size.clone(), huge_pages(files, &size)?);
    }
    Ok(())
}

fn entry(files: &Files<'_>, name: &str) -> Result<MemoryEntry, CgroupError> {
    Ok(MemoryEntry {
        limit: files.limit(&format!("{name}.max"), u64::MAX)?,
        usage: files.number(&format!("{name}.current"))?,
        max: files.number(&format!("{name}.peak"))?,
        failcnt: 0,
    })
}

/// Returns memory and swap together, as version 1 counts.
fn with_swap(memory: &MemoryEntry, swap: &MemoryEntry) -> MemoryEntry {
    MemoryEntry {
        limit: swap.limit.saturating_add(memory.limit),
        usage: swap.usage.saturating_add(memory.usage),
        // The two maxima need not have been reached at once.
        max: 0,
        failcnt: 0,
    }
}

/// Parses lines like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn block_io(text: &str) -> BlockIo {
    let mut io = BlockIo::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for word in words {
            let Some((key, Ok(value))) = word.split_once('=').map(|(k, v)| (k, v.parse())) else {
                continue;
            };
            let (list, op) = match key {
                "rbytes" => (&mut io.service_bytes, "Read"),
                "wbytes" => (&mut io.service_bytes, "Write"),
                "rios" => (&mut io.serviced, "Read"),
                "wios" => (&mut io.serviced, "Write"),
                _ => continue,
            };
            list.push(BlockIoEntry {
                major,
                minor,
                op: op.to_owned(),
                value,
            });
        }
    }
    io
}

fn huge_pages(files: &Files<'_>, size: &str) -> Result<HugePages, CgroupError> {
    let events = files.text(&format!("hugetlb.{size}.events"))?;
    Ok(HugePages {
        usage: files.number(&format!("hugetlb.{size}.current"))?,
        max: 0,
        failcnt: value(&events.unwrap_or_default(), "max"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::files::tests::fake;
    use super::*;

    #[test]
    fn the_files_are_read() {
        let directory = fake(&[
            (
                "cpu.stat",
                "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 5\nnr_throttled 4\nthrottled_usec 7\n",
            ),
            ("memory.stat", "anon 4096\nfile 8192\n"),
            ("memory.current", "12288\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "16384\n"),
            ("memory.swap.current", "100\n"),
            ("memory.swap.max", "200\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nnonsense\n",
            ),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
            ("hugetlb.2MB.events", "max 6\n"),
        ]);
        let mut stats = Stats::default();
        read(&Files(directory.path()), &mut stats).unwrap();
        let cpu = &stats.cpu;
        assert_eq!(
            [cpu.usage.total, cpu.usage.user, cpu.usage.kernel],
            [3_000_000, 2_000_000, 1_000_000]
        );
        assert_eq!(cpu.throttling.throttled_time, 7000);
        assert_eq!(stats.memory.cache, 8192);
        assert_eq!(stats.memory.usage.limit, u64::MAX);
        assert_eq!(stats.memory.usage.max, 16384);
        assert_eq!(stats.memory.swap.usage, 12388);
        assert_eq!(stats.memory.swap.limit, u64::MAX);
        assert_eq!(
            stats.memory.raw,
            BTreeMap::from([("anon".to_owned(), 4096), ("file".to_owned(), 8192)])
        );
        assert_eq!((stats.pids.current, stats.pids.limit), (3, 0));
        let bytes: Vec<_> = stats.blkio.service_bytes.iter().map(|e| e.value).collect();
        assert_eq!(bytes, [1, 2]);
        assert_eq!(stats.blkio.serviced[1].op, "Write");
        assert_eq!(stats.hugetlb.len(), 1);
        assert_eq!(stats.hugetlb["2MB"].failcnt, 6);
    }
}
