//! The initramfs: a cpio archive in the `newc` format (the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst) with the agent as `/init` and
//! the `/dev/console` that the kernel opens for it.

use std::{fs::File, io};

use nacre_vmm::InitramfsPart;

const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFREG: u32 = 0o100_000;

/// Builds the archive around the agent's file, which isn't copied.
pub(super) fn build(agent: File) -> io::Result<Vec<InitramfsPart>> {
    let (head, tail) = around(agent.metadata()?.len())?;
    Ok(vec![
        InitramfsPart::Bytes(head),
        InitramfsPart::File(agent),
        InitramfsPart::Bytes(tail),
    ])
}

/// Returns what comes before and after an agent of `length` bytes.
fn around(length: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let length = u32::try_from(length)
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "over 4 GiB"))?;
    let mut head = Vec::new();
    entry(&mut head, 1, "dev", S_IFDIR | 0o755, 0, (0, 0));
    entry(&mut head, 2, "dev/console", S_IFCHR | 0o600, 0, (5, 1));
    entry(&mut head, 3, "init", S_IFREG | 0o755, length, (0, 0));
    let mut tail = vec![0; padding(length as usize)];
    entry(&mut tail, 0, "TRAILER!!!", 0, 0, (0, 0));
    Ok((head, tail))
}

/// Appends an entry's header and name; its data follows.
fn entry(
    to: &mut Vec<u8>,
    inode: u32,
    name: &str,
    mode: u32,
    size: u32,
    (major, minor): (u32, u32),
) {
    let start = to.len();
    to.extend_from_slice(b"070701");
    let name_size = name.len() as u32 + 1;
    for field in [
        inode, mode, 0, // uid
        0, // gid
        1, // links
        0, // modification time
        size, 0, 0, // the device that it is on
        major, minor, name_size, 0, // checksum: none in this format
    ] {
        to.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    to.extend_from_slice(name.as_bytes());
    to.push(0);
    to.resize(to.len() + padding(to.len() - start), 0);
}

/// Returns the number of bytes that round a length up to a multiple of four.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, device and data.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Reads an archive as the kernel's init/initramfs.c does.
    fn parse(archive: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0);
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |i: usize| {
                let hex = &archive[at + 6 + 8 * i..at + 14 + 8 * i];
                u32::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let name = &archive[at + 110..at + 110 + name_size];
            assert_eq!(name.last(), Some(&0));
            let name = String::from_utf8(name[..name_size - 1].to_vec()).unwrap();
            let data = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            let content = archive[data..data + size].to_vec();
            at = (data + size).next_multiple_of(4);
            entries.push((name, mode, device, content));
        }
    }

    #[test]
    fn the_kernel_finds_the_agent_whatever_its_length() {
        for length in [0usize, 1, 2, 3, 4, 1001] {
            let agent = vec![0xa5; length];
            let (mut archive, tail) = around(length as u64).unwrap();
            archive.extend_from_slice(&agent);
            archive.extend_from_slice(&tail);
            let entries = parse(&archive);
            assert_eq!(entries.len(), 3);
            assert_eq!(entries[0], ("dev".into(), 0o040_755, (0, 0), vec![]));
            assert_eq!(
                entries[1],
                ("dev/console".into(), 0o020_600, (5, 1), vec![])
            );
            assert_eq!(entries[2], ("init".into(), 0o100_755, (0, 0), agent));
        }
    }

    #[test]
    fn an_agent_that_a_header_cannot_describe_is_refused() {
        assert!(around(1 << 32).is_err());
    }
}
