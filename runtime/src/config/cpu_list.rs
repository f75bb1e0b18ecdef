//! Counts lists of CPUs.

/// Counts the different CPUs in the ranges.
pub(super) fn count(ranges: &[(u32, u32)]) -> u32 {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let (mut total, mut next) = (0u64, 0u64);
    for (first, last) in sorted {
        let first = u64::from(first).max(next);
        let end = u64::from(last) + 1;
        total += end.saturating_sub(first);
        next = next.max(end);
    }
    u32::try_from(total).unwrap_or(u32::MAX)
}
