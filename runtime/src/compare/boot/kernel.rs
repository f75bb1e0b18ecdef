//! The phases of a guest's kernel, by what it has logged.

/// The lines that end a phase, with the name of that.
const ENDS: [(&str, &str); 3] = [
    ("kernel: memory", "SLUB: "),
    ("kernel: processors", "smp: Brought up"),
    ("kernel: drivers", "Run /init as init process"),
];

/// Returns the phases whose ends are in the log, with nanoseconds since the kernel's clock began.
pub(super) fn phases(log: &str) -> Vec<(&'static str, u64)> {
    let lines: Vec<(u64, &str)> = log.lines().filter_map(line).collect();
    let found = ENDS.iter().filter_map(|(name, begins)| {
        let mut lines = lines.iter();
        let end = lines.find(|(_, text)| text.starts_with(begins))?;
        Some((*name, end.0))
    });
    found.collect()
}

/// Takes a line such as `[    0.123456] text` apart.
fn line(line: &str) -> Option<(u64, &str)> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = time.trim().split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = micros.parse().ok().filter(|it| *it < 1_000_000)?;
    Some((
        seconds
            .checked_mul(1_000_000_000)?
            .checked_add(micros * 1000)?,
        text,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_end_with_lines() {
        let log = "[    0.000000] Linux version\n[    0.097869] SLUB: HWalign=64\nnone\n\
                   [    1.538453] smp: Brought up 1 node, 1 CPU\n[18446744073709551.0] SLUB: \n";
        let expected = [
            ("kernel: memory", 97_869_000),
            ("kernel: processors", 1_538_453_000),
        ];
        assert_eq!(phases(log), expected);
        assert_eq!(phases(""), []);
    }
}
