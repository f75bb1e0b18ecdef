//! Checks which descriptors a process has open.

use std::fs;

use nix::unistd::Pid;

/// Fails unless a process that waits for its container's start has open exactly its standard
/// streams, the `preserved` descriptors after them, and one socket, over which it is told to start.
#[track_caller]
pub fn unasked(pid: Pid, preserved: u32) -> Vec<String> {
    let mut lines = 0;
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let number: u32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(&path).unwrap();
        let is_directory = fs::metadata(&path).is_ok_and(|file| file.is_dir());
        if number < 3 + preserved && !is_directory {
            continue;
        }
        lines += u32::from(target.to_string_lossy().starts_with("socket:"));
        if !target.to_string_lossy().starts_with("socket:") || lines > 1 {
            found.push(format!("{number}: {}", target.display()));
        }
    }
    assert_eq!(lines, 1, "it has no line to hear of its start");
    found
}
