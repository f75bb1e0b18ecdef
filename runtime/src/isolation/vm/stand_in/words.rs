//! The words that this process was started with, as `/proc/PID/cmdline` and `/proc/PID/environ`
//! show them.

use std::{fs, io};

use nacre_agent::container::forget_environment;

/// The field of proc_pid_stat(5) that says where the arguments begin, counted from the third; the
/// next one says where they end.
const FIRST: usize = 48 - 3;

/// Where the arguments are in the memory of this process and its forks.
#[derive(Debug, Clone, Copy)]
pub(in crate::isolation::vm) struct Words {
    start: usize,
    length: usize,
}

impl Words {
    /// Finds them, which takes `/proc`.
    pub(in crate::isolation::vm) fn find() -> io::Result<Self> {
        parse(&fs::read_to_string("/proc/self/stat")?).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Replaces the arguments with others, as far as there is room, and forgets the environment.
    ///
    /// # Safety
    ///
    /// The words must be this process's, which must have a single thread, and nothing in it may
    /// have kept an argument or a variable.
    pub(in crate::isolation::vm) unsafe fn replace(self, words: &str) {
        // SAFETY: the caller's promise.
        unsafe {
            forget_environment();
            self.fill(words.as_bytes());
        }
    }

    /// # Safety
    ///
    /// The kernel must have put the words there in this process's memory, which nobody else uses
    /// meanwhile.
    unsafe fn fill(self, with: &[u8]) {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(self.start);
        // The last byte stays a zero, or the environment would count as more arguments.
        let with = with.iter().copied().take(self.length.saturating_sub(1));
        let bytes = with.chain(std::iter::repeat(0)).take(self.length);
        for (offset, byte) in bytes.enumerate() {
            // SAFETY: the caller's promise; a process may write to that memory.
            unsafe { start.add(offset).write_volatile(byte) };
        }
    }
}

/// Reads them from `/proc/PID/stat`, whose second field is a name with anything in it.
fn parse(stat: &str) -> Option<Words> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace().skip(FIRST);
    let start: usize = fields.next()?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    let length = end.checked_sub(start)?;
    Some(Words { start, length })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const VARIABLE: &str = "NACRE_WORDS_TEST";

    #[test]
    fn nothing_of_them_is_left() {
        let shown = |name: &str| {
            let words = fs::read(format!("/proc/self/{name}")).unwrap();
            String::from_utf8_lossy(&words).into_owned()
        };
        if std::env::var_os(VARIABLE).is_some() {
            assert!(shown("environ").contains(VARIABLE) && shown("cmdline").contains("--exact"));
            let words = Words::find().unwrap();
            // SAFETY: they are this process's, whose other thread waits for this one.
            unsafe {
                words.replace("other words");
            }
            assert_eq!(shown("environ").trim_matches('\0'), "");
            assert_eq!(std::env::var_os(VARIABLE), None);
            assert_eq!(shown("cmdline").trim_end_matches('\0'), "other words");
            return;
        }
        let test = std::thread::current().name().unwrap().to_owned();
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &test])
            .env(VARIABLE, "1")
            .output()
            .unwrap();
        assert!(again.status.success(), "{again:?}");
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_name_is_no_field() {
        let mut stat = "1 (a) b) S".to_owned();
        for field in 4..=52 {
            stat += &format!(" {}", field * 10);
        }
        let found = parse(&stat).unwrap();
        assert_eq!((found.start, found.length), (480, 10));
        assert!(parse("1 (a) S 1 2").is_none());
    }
}
