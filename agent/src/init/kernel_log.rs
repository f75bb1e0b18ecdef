//! What the guest's kernel has logged (syslog(2)).

use std::io;

use nix::errno::Errno;

/// From syslog(2).
const READ_ALL: libc::c_int = 3;
const SIZE_BUFFER: libc::c_int = 10;

/// How much of it is told, in bytes: its end. As JSON a byte may take six.
const MOST: usize = 512 << 10;

/// Returns it, each line with its time since the boot.
pub(super) fn read() -> io::Result<String> {
    // SAFETY: this asks for a number.
    let size = Errno::result(unsafe { libc::klogctl(SIZE_BUFFER, std::ptr::null_mut(), 0) })?;
    let mut log = vec![0u8; (size as usize).min(MOST)];
    // SAFETY: the buffer is as long as the call is told.
    let length = Errno::result(unsafe {
        libc::klogctl(READ_ALL, log.as_mut_ptr().cast(), log.len() as libc::c_int)
    })?;
    log.truncate(length as usize);
    Ok(without_levels(&String::from_utf8_lossy(&log)))
}

/// Takes away the `<6>` before each line, which says how grave it is.
fn without_levels(log: &str) -> String {
    let lines = log.lines().map(|line| {
        let rest = line.strip_prefix('<').and_then(|line| line.split_once('>'));
        rest.filter(|(level, _)| level.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(line, |(_, rest)| rest)
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_without_levels() {
        let log = "<6>[    0.1] one\n<30>two\n<x>three\nfour <5>\n";
        assert_eq!(
            without_levels(log),
            "[    0.1] one\ntwo\n<x>three\nfour <5>\n"
        );
        assert_eq!(without_levels(""), "");
    }
}
