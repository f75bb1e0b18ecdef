//! `nacre top`: what running containers cost the host, looked at again and again.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    cli::{Global, Sort, Top},
    state::{By, Seen, Status, Store},
    text::{Unit, quantity},
};

use super::{containers::store, error::Error, output::print, table::Table};

/// Clears the screen and goes to its beginning (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) fn top(global: &Global, arguments: &Top) -> Result<u8, Error> {
    let store = store(global)?;
    let is_once = arguments.once || !io::stdout().is_terminal();
    let mut before = look(&store)?;
    loop {
        sleep(arguments.interval.0);
        let now = look(&store)?;
        let table = table(rows(&before, &now, arguments.sort));
        if is_once {
            print(&table)?;
            return Ok(0);
        }
        print(&format!("{CLEAR}{table}"))?;
        before = now;
    }
}

/// What was seen at one time, by the containers' ids.
struct Look {
    at: Instant,
    containers: BTreeMap<String, Container>,
}

/// What a container costs the host: in a VM, all of the VM.
#[derive(Debug, Clone, PartialEq)]
struct Container {
    isolation: &'static str,
    status: Status,
    /// `None` for what isn't counted here.
    cpu: Option<Duration>,
    memory: Option<u64>,
    processes: Option<u64>,
    /// The CPUs and the memory that a VM was given.
    given: Option<(u32, u64)>,
}

fn look(store: &Store) -> Result<Look, Error> {
    let seen = store.list()?;
    let running = seen.iter().filter(|seen| seen.status != Status::Stopped);
    Ok(Look {
        at: Instant::now(),
        containers: running
            .map(|seen| (seen.record.id.clone(), container(seen)))
            .collect(),
    })
}

fn container(seen: &Seen) -> Container {
    let given = match &seen.record.by {
        By::Vm(vm) => Some((vm.size.cpus, vm.size.memory)),
        By::Process(_) => None,
    };
    // It may end meanwhile.
    let cgroup = seen.record.cgroup();
    let stats = cgroup.and_then(|cgroup| cgroup.stats().ok());
    Container {
        isolation: seen.record.isolation().name(),
        status: seen.status,
        cpu: stats
            .as_ref()
            .map(|it| Duration::from_nanos(it.cpu.usage.total)),
        memory: stats.as_ref().map(|it| it.memory.usage.usage),
        processes: stats.as_ref().map(|it| it.pids.current),
        given,
    }
}

/// A line, with the share of a CPU that the container took between two looks.
struct Row<'a> {
    id: &'a str,
    container: &'a Container,
    share: Option<f64>,
}

fn rows<'a>(before: &Look, now: &'a Look, sort: Sort) -> Vec<Row<'a>> {
    let elapsed = now.at.duration_since(before.at).as_secs_f64();
    let rows = now.containers.iter().map(|(id, container)| {
        let earlier = before.containers.get(id).and_then(|it| it.cpu);
        let taken = container
            .cpu
            .zip(earlier)
            .map(|(now, before)| now.saturating_sub(before));
        Row {
            id,
            container,
            share: taken.map(|taken| taken.as_secs_f64() / elapsed),
        }
    });
    let mut rows: Vec<Row<'_>> = rows.collect();
    match sort {
        Sort::Cpu => rows.sort_by(|a, b| b.share.unwrap_or(0.0).total_cmp(&a.share.unwrap_or(0.0))),
        Sort::Memory => rows.sort_by_key(|row| std::cmp::Reverse(row.container.memory)),
        // As they come.
        Sort::Id => {}
    }
    rows
}

fn table(rows: Vec<Row<'_>>) -> String {
    let mut table = Table::new([
        "ID",
        "ISOLATION",
        "STATUS",
        "CPU",
        "CPU TIME",
        "MEMORY",
        "PROCESSES",
        "GIVEN",
    ]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for Row {
        id,
        container,
        share,
    } in rows
    {
        table.row([
            id.to_owned(),
            container.isolation.to_owned(),
            container.status.to_string(),
            or_none(share.map(|share| format!("{:.1} %", share * 100.0))),
            or_none(
                container
                    .cpu
                    .map(|cpu| quantity(cpu.as_secs_f64(), Unit::Seconds)),
            ),
            or_none(
                container
                    .memory
                    .map(|memory| quantity(memory as f64, Unit::Bytes)),
            ),
            or_none(container.processes.map(|number| number.to_string())),
            or_none(container.given.map(|(cpus, memory)| {
                format!("{cpus} CPUs, {}", quantity(memory as f64, Unit::Bytes))
            })),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: u64, memory: u64) -> Container {
        Container {
            isolation: "process",
            status: Status::Running,
            cpu: Some(Duration::from_millis(cpu)),
            memory: Some(memory),
            processes: None,
            given: None,
        }
    }

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let at = Instant::now();
        let look = |after, containers: &[(&str, u64, u64)]| Look {
            at: at + Duration::from_secs(after),
            containers: containers
                .iter()
                .map(|(id, cpu, memory)| ((*id).to_owned(), container(*cpu, *memory)))
                .collect(),
        };
        let before = look(0, &[("a", 100, 7), ("b", 100, 5), ("gone", 0, 0)]);
        let now = look(2, &[("a", 200, 7), ("b", 1100, 5), ("new", 50, 9)]);
        let ids = |sort| {
            let rows = rows(&before, &now, sort);
            rows.iter().map(|row| row.id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(Sort::Cpu), "b a new");
        assert_eq!(ids(Sort::Memory), "new a b");
        assert_eq!(ids(Sort::Id), "a b new");
        let table = table(rows(&before, &now, Sort::Cpu));
        assert!(
            table.contains("50.0 %") && table.contains("5.0 %"),
            "{table}"
        );
    }
}
