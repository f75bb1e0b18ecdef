//! Files in the root file system, which a VM reaches over virtio-fs. Each measurement has a
//! container of its own, so that a guest has nothing in its page cache.

use std::error::Error;
use std::fs;

use super::{Mode, in_each};
use crate::bundle::Container;
use crate::clock::Taken;
use crate::comparison::Comparison;

/// What is measured, the workload's arguments, and how many containers do it, one after another.
type Work = (&'static str, &'static [&'static str], usize);

const WORK: [Work; 4] = [
    (
        "write 64 MiB in a row, and sync",
        &["write", "/data/file", "64"],
        1,
    ),
    ("read 64 MiB in a row", &["read", "/data/file"], 1),
    (
        "4,000 random reads of 4 KiB",
        &["random-read", "/data/file", "4000"],
        1,
    ),
    (
        "4,000 random writes of 4 KiB, and sync",
        &["random-write", "/data/file", "4000"],
        1,
    ),
];

/// Split over several containers, since few guests get through all of it (tests/testbed/README.md).
const SMALL: Work = (
    "10,000 small files made, 1,000 in each of ten containers",
    &["small-files", "/data/many", "1000"],
    10,
);

/// How often a guest may hang during one measurement.
const HANGS: usize = 20;

pub(super) fn measure(modes: &[Mode<'_>], table: &mut Comparison) -> Result<(), Box<dyn Error>> {
    carry_out(&WORK, modes, table)
}

pub(super) fn measure_small(
    modes: &[Mode<'_>],
    table: &mut Comparison,
) -> Result<(), Box<dyn Error>> {
    carry_out(&[SMALL], modes, table)
}

fn carry_out(
    work: &[Work],
    modes: &[Mode<'_>],
    table: &mut Comparison,
) -> Result<(), Box<dyn Error>> {
    for (what, words, containers) in work {
        let times = in_each(modes, |mode| {
            let mut sum = Taken::default();
            let (mut ended, mut hung) = (0, 0);
            while ended < *containers {
                match once(mode, words)? {
                    Some(taken) => {
                        sum += taken;
                        ended += 1;
                    }
                    None if hung == HANGS => return Err("too many guests hung".into()),
                    None => {
                        hung += 1;
                        eprintln!("{what}: a guest hung, and another does its part");
                    }
                }
            }
            Ok(sum)
        })?;
        table.instructions(what, times);
    }
    Ok(())
}

/// Measures one container, unless its guest hangs.
fn once(mode: &Mode<'_>, words: &[&str]) -> Result<Option<Taken>, Box<dyn Error>> {
    let args = [&["nacre-bench", "workload"], words].concat();
    let bundle = mode.bundle("files", &Container::of(&args))?;
    let data = bundle.path.join("rootfs/data");
    fs::create_dir_all(&data)?;
    let took = mode.time_workload(&bundle, "files");
    let many = data.join("many");
    if many.exists() {
        fs::remove_dir_all(many)?;
    }
    took
}
