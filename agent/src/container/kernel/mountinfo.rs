//! Reads `/proc/PID/mountinfo`
//! ([proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A mount, as its line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine<'a> {
    /// Its id.
    pub id: u64,
    /// The directory of its file system that is mounted.
    pub root: PathBuf,
    /// Where it is mounted, from the reading process's root.
    pub point: PathBuf,
    /// Its own options, separated by commas.
    pub options: &'a OsStr,
    /// The type of its file system.
    pub file_system: &'a OsStr,
    /// The options of its file system, separated by commas.
    pub parameters: &'a OsStr,
}

impl MountLine<'_> {
    /// Whether it has this option.
    pub fn has(&self, option: &str) -> bool {
        let mut options = self.options.as_bytes().split(|byte| *byte == b',');
        options.any(|other| other == option.as_bytes())
    }
}

/// Returns the mounts of a mountinfo. A line that isn't one is left out.
pub fn mount_lines(mountinfo: &[u8]) -> impl Iterator<Item = MountLine<'_>> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse)
}

fn parse(line: &[u8]) -> Option<MountLine<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = path(fields.nth(2)?);
    let point = path(fields.next()?);
    let options = OsStr::from_bytes(fields.next()?);
    // The optional fields end with a dash.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let file_system = OsStr::from_bytes(rest.next()?);
    // The source comes between them.
    let parameters = OsStr::from_bytes(rest.nth(1).unwrap_or_default());
    Some(MountLine {
        id,
        root,
        point,
        options,
        file_system,
        parameters,
    })
}

/// Decodes a path, in which blanks, tabs, newlines and backslashes are octal.
fn path(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|d| str::from_utf8(d).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                path.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed() {
        let line =
            b"36 35 0:22 /r /a\\040b/\xff rw,nosuid shared:1 master:2 - cgroup s rw,cpu\nx\n";
        let lines: Vec<MountLine<'_>> = mount_lines(line).collect();
        let expected = MountLine {
            id: 36,
            root: "/r".into(),
            point: OsString::from_vec(b"/a b/\xff".to_vec()).into(),
            options: OsStr::new("rw,nosuid"),
            file_system: OsStr::new("cgroup"),
            parameters: OsStr::new("rw,cpu"),
        };
        assert_eq!(lines, [expected]);
        assert!(lines[0].has("nosuid") && !lines[0].has("suid") && !lines[0].has("cpu"));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(path(b"\\"), PathBuf::from("\\"));
        assert_eq!(path(b"\\9x\\"), PathBuf::from("\\9x\\"));
        assert_eq!(path(b"a\\134"), PathBuf::from("a\\"));
    }
}
