//! The environment that this process was started with, as `/proc/PID/environ` shows it.

use std::{fs, io};

/// The fields of proc_pid_stat(5) that say where it is, counted from the third.
const START: usize = 50 - 3;
const END: usize = 51 - 3;

/// Where it is in this process's memory, and in that of its forks.
#[derive(Debug, Clone, Copy)]
pub(in crate::isolation::vm) struct Environment {
    start: usize,
    length: usize,
}

impl Environment {
    /// Finds it, which takes `/proc`.
    pub(in crate::isolation::vm) fn find() -> io::Result<Self> {
        parse(&fs::read_to_string("/proc/self/stat")?).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Fills it with zeroes: no variable is set any more, and none can be read by others.
    ///
    /// # Safety
    ///
    /// It must be this process's, and no thread may use its environment meanwhile.
    pub(in crate::isolation::vm) unsafe fn erase(self) {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        for offset in 0..self.length {
            // SAFETY: the kernel says that this is where it put the strings, in memory that this
            // process may write to. What points to them finds empty ones.
            unsafe { start.add(offset).write_volatile(0) };
        }
    }
}

/// Out of `/proc/PID/stat`, whose second field is a name with anything in it.
fn parse(stat: &str) -> Option<Environment> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace();
    let start: usize = fields.nth(START)?.parse().ok()?;
    let end: usize = fields.nth(END - START - 1)?.parse().ok()?;
    let length = end.checked_sub(start)?;
    Some(Environment { start, length })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const VARIABLE: &str = "NACRE_ENVIRONMENT_TEST";

    #[test]
    fn nothing_of_it_is_left() {
        let is_there = || {
            let environ = fs::read("/proc/self/environ").unwrap();
            String::from_utf8_lossy(&environ).contains(VARIABLE)
        };
        if std::env::var_os(VARIABLE).is_some() {
            assert!(is_there());
            let environment = Environment::find().unwrap();
            // SAFETY: it is this process's, whose other thread waits for this one.
            unsafe { environment.erase() };
            assert!(!is_there());
            assert_eq!(std::env::var_os(VARIABLE), None);
            return;
        }
        let test = std::thread::current().name().unwrap().to_owned();
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &test])
            .env(VARIABLE, "1")
            .output()
            .unwrap();
        assert!(again.status.success(), "{again:?}");
    }

    #[test]
    fn a_name_is_no_field() {
        let mut stat = "1 (a) b) S".to_owned();
        for field in 4..=52 {
            stat += &format!(" {}", field * 10);
        }
        let found = parse(&stat).unwrap();
        assert_eq!((found.start, found.length), (500, 10));
        assert!(parse("1 (a) S 1 2").is_none());
    }
}
