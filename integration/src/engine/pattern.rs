//! The bytes of every body: a fixed noise that repeats every 64 KiB, so that a shifted, lost or foreign byte shows.
//!
//! Flows in: an offset. Flows out: the bytes that belong there, as a slice of one table.

use std::sync::LazyLock;

/// After how many bytes it begins again.
pub const PERIOD: usize = 1 << 16;

/// Two periods, so that a slice of up to one period never wraps.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[2]
        })
        .collect();
    period.repeat(2)
});

/// At most [`PERIOD`] bytes from that offset on.
pub fn at(offset: u64, length: u64) -> &'static [u8] {
    let start = offset as usize % PERIOD;
    let length = length.min(PERIOD as u64) as usize;
    TABLE.get(start..start + length).unwrap_or_default()
}

/// Whether those bytes belong at that offset.
pub fn matches(mut offset: u64, bytes: &[u8]) -> bool {
    bytes.chunks(PERIOD).all(|chunk| {
        let good = at(offset, chunk.len() as u64) == chunk;
        offset += chunk.len() as u64;
        good
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_pattern_matches_itself_and_nothing_shifted() {
        let whole: Vec<u8> = [at(0, PERIOD as u64), at(PERIOD as u64, 5000)].concat();
        for (start, end) in [(0, 1), (17, 4000), (65_000, 66_000), (65_536, 70_000), (0, whole.len())] {
            assert!(matches(start as u64, &whole[start..end]), "{start}..{end}");
            if end - start > 8 {
                assert!(!matches(start as u64 + 1, &whole[start..end]), "{start}..{end} shifted");
            }
        }
    }
}
