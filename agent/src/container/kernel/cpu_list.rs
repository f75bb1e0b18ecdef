//! Lists of CPUs and memory nodes, as the kernel writes them: `0-2,4`
//! ([cpuset(7)](https://man7.org/linux/man-pages/man7/cpuset.7.html), "Formats").

use std::collections::BTreeSet;

/// More than any kernel is built for (`NR_CPUS` is at most 8192), so that a list can't make
/// us allocate without bound.
const MAX_NUMBER: u32 = 1 << 16;

/// Returns the ranges of a list like `0-2,4`, each by its first and last number; `None` if it isn't
/// one.
pub fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| digits)
    };
    let parts = list.trim().split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        })
        .collect()
}

/// Returns the numbers of a list; `None` if it isn't one, or has numbers that no kernel has.
pub(crate) fn parse(list: &str) -> Option<BTreeSet<u32>> {
    let ranges = ranges(list)?;
    let known = ranges.iter().all(|(_, last)| *last < MAX_NUMBER);
    known.then(|| {
        ranges
            .iter()
            .flat_map(|(first, last)| *first..=*last)
            .collect()
    })
}

/// Returns one bit for each of `numbers`, in words as the kernel takes them.
pub(crate) fn bits(numbers: impl IntoIterator<Item = u32>) -> Vec<u64> {
    let mut words = Vec::new();
    for number in numbers {
        let word = number as usize / 64;
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        if let Some(word) = words.get_mut(word) {
            *word |= 1 << (number % 64);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_as_the_kernel_does() {
        for (list, expected) in [
            ("0", Some(vec![0])),
            ("0-2,4", Some(vec![0, 1, 2, 4])),
            ("3,1\n", Some(vec![1, 3])),
            ("", Some(vec![])),
            ("2-1", None),
            ("a", None),
            ("+1", None),
            ("-1", None),
            ("0-", None),
            ("0 1", None),
            ("0-4294967295", None),
            ("1/../2", None),
        ] {
            let expected = expected.map(BTreeSet::from_iter);
            assert_eq!(parse(list), expected, "{list:?}");
        }
    }
}
