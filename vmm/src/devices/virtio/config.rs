//! Reads a configuration space.

/// Copies what `config` has from `offset` on to `data`; the rest of `data` stays as it is.
pub(crate) fn read(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
        .unwrap_or_default();
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_are_cut_at_the_end() {
        let config = [1, 2, 3, 4];
        for (offset, expected) in [
            (0, [1, 2, 3]),
            (2, [3, 4, 9]),
            (4, [9; 3]),
            (u64::MAX, [9; 3]),
        ] {
            let mut data = [9; 3];
            super::read(&config, offset, &mut data);
            assert_eq!(data, expected);
        }
    }
}
