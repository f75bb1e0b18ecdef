//! Files of the root file system: over virtio-fs in a VM. Each measurement has a container of
//! its own, so that a guest has nothing in its page cache.

use std::error::Error;
use std::fs;

use super::{Mode, in_each};
use crate::bundle::Container;
use crate::comparison::Comparison;

/// What is done, and the words of the workload.
const WORK: [Work; 4] = [
    (
        "write 64 MiB in a row, and sync",
        &["write", "/data/file", "64"],
    ),
    ("read 64 MiB in a row", &["read", "/data/file"]),
    (
        "4,000 random reads of 4 KiB",
        &["random-read", "/data/file", "4000"],
    ),
    (
        "4,000 random writes of 4 KiB, and sync",
        &["random-write", "/data/file", "4000"],
    ),
];

const SMALL: Work = (
    "10,000 small files made",
    &["small-files", "/data/many", "10000"],
);

type Work = (&'static str, &'static [&'static str]);

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
    for (what, words) in work {
        let times = in_each(modes, |mode| {
            let args = [&["nacre-bench", "workload"], *words].concat();
            let bundle = mode.bundle("files", &Container::of(&args))?;
            let data = bundle.path.join("rootfs/data");
            fs::create_dir_all(&data)?;
            let took = mode.time_workload(&bundle, "files");
            let many = data.join("many");
            if many.exists() {
                fs::remove_dir_all(many)?;
            }
            took
        })?;
        table.instructions(what, times);
    }
    Ok(())
}
