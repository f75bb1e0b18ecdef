//! The words that the test has for this guest, in the file that stands for the agent's, which is in
//! the initramfs: a first line, and lines such as `seed=7`.

use crate::memory::read;

const FIRST: &[u8] = b"hostile guest's words\n";
const LONGEST: usize = 2048;

/// Offsets in the zero page.
const RAMDISK_IMAGE: u64 = 0x218;
const RAMDISK_SIZE: u64 = 0x21c;
const COMMAND_LINE: u64 = 0x228;

/// Lines of words.
pub struct Words {
    text: [u8; LONGEST],
}

impl Words {
    /// Finds them in the initramfs.
    pub fn find(zero_page: u64) -> Option<Words> {
        let start = u64::from(read::<u32>(zero_page + RAMDISK_IMAGE));
        let size = u64::from(read::<u32>(zero_page + RAMDISK_SIZE));
        let is_here = |at: &u64| (*at..).zip(FIRST).all(|(at, byte)| read::<u8>(at) == *byte);
        let found = (start..start + size).find(is_here)?;
        Some(Words::at(found + FIRST.len() as u64))
    }

    /// Takes the kernel's command line for words.
    pub fn of_command_line(zero_page: u64) -> Words {
        Words::at(read::<u32>(zero_page + COMMAND_LINE).into())
    }

    fn at(start: u64) -> Words {
        let mut text = [0; LONGEST];
        for (at, byte) in (start..).zip(&mut text) {
            match read(at) {
                0 => break,
                other => *byte = other,
            }
        }
        Words { text }
    }

    /// Returns the values after a name and `=`.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let words = self.text.split(|byte| *byte <= b' ');
        words.filter_map(move |word| {
            let value = word.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            core::str::from_utf8(value).ok()
        })
    }

    pub fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }
}
