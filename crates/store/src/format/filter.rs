//! A Bloom filter over the blocks of an index segment: says at once that a block is not in it, nearly always.
//!
//! Each block sets [`BITS`] bits in one line of 64 bytes, so that asking touches one line of the processor's cache. At
//! ten bits for each block about one in a hundred that are not there is not told.
#![deny(clippy::indexing_slicing)]

use super::Flaw;
use crate::error::Part;
use crate::hash::HASH_LEN;

/// Length of a line in bytes.
pub(crate) const LINE_LEN: usize = 64;
/// Most lines of a filter: 1 GiB.
pub(crate) const MAX_LINES: u32 = 1 << 24;

/// Bits of the filter for each block.
const BITS_PER_BLOCK: u64 = 10;
/// Bits that a block sets in its line.
const BITS: u32 = 6;
/// Bits that say where in a line a bit is.
const POSITION_BITS: u32 = 9;
const LINE_BITS: u64 = 1 << POSITION_BITS;
/// Mixes the hash's prefix once more, as the table uses its first bits (the 64-bit golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A filter in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    lines: Vec<[u64; 8]>,
}

impl Filter {
    /// Makes a filter for at most that many blocks.
    pub(crate) fn new(blocks: u64) -> Filter {
        let lines = (blocks * BITS_PER_BLOCK).div_ceil(LINE_BITS).min(u64::from(MAX_LINES));
        Filter { lines: vec![[0; 8]; usize::try_from(lines).unwrap_or(0)] }
    }

    /// Returns the length in lines.
    pub(crate) fn lines(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(u32::MAX)
    }

    /// Adds a block whose hash begins so.
    pub(crate) fn add(&mut self, prefix: u64) {
        let line = line_of(prefix, self.lines.len());
        if let Some(line) = self.lines.get_mut(line) {
            for (word, mask) in line.iter_mut().zip(masks(prefix)) {
                *word |= mask;
            }
        }
    }

    /// Says whether a block whose hash begins so may have been added; false is certain.
    pub(crate) fn may_have(&self, prefix: u64) -> bool {
        let Some(line) = self.lines.get(line_of(prefix, self.lines.len())) else { return false };
        line.iter().zip(masks(prefix)).all(|(word, mask)| word & mask == mask)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.lines.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Decodes and verifies a filter.
    pub(crate) fn decode(bytes: &[u8], hash: &[u8; HASH_LEN]) -> Result<Filter, Flaw> {
        let (lines, rest) = bytes.as_chunks::<LINE_LEN>();
        if !rest.is_empty() || blake3::hash(bytes).as_bytes() != hash {
            return Err(Flaw::new(Part::Tables, "the hash of the filter is wrong"));
        }
        let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let line_of = |line: &[u8; LINE_LEN]| {
            let mut words = [0; 8];
            for (to, from) in words.iter_mut().zip(line.as_chunks::<8>().0) {
                *to = word(from);
            }
            words
        };
        Ok(Filter { lines: lines.iter().map(line_of).collect() })
    }
}

fn line_of(prefix: u64, lines: usize) -> usize {
    // The low half of the prefix, scaled to the number of lines.
    let scaled = ((prefix & u64::from(u32::MAX)) * lines as u64) >> u32::BITS;
    usize::try_from(scaled).unwrap_or(0)
}

/// Returns the bits of a block in each word of its line.
fn masks(prefix: u64) -> [u64; 8] {
    let mixed = prefix.wrapping_mul(MIX);
    let mut masks = [0; 8];
    for bit in 0..BITS {
        let position = (mixed >> (u64::BITS - POSITION_BITS * (bit + 1))) & (LINE_BITS - 1);
        if let Some(mask) = usize::try_from(position / 64).ok().and_then(|word| masks.get_mut(word)) {
            *mask |= 1 << (position % 64);
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::BlockHash;

    fn prefix(n: u32) -> u64 {
        BlockHash::of(&n.to_le_bytes()).prefix()
    }

    // A block that the filter denies is stored again: it may deny nothing that was added, and is of use only if it
    // denies nearly all else.
    #[test]
    fn what_was_added_is_never_denied_and_little_else_is_let_through() {
        for blocks in [1, 50, 51, 10_000] {
            let mut filter = Filter::new(u64::from(blocks));
            (0..blocks).for_each(|n| filter.add(prefix(n)));
            let bytes = filter.encode();
            let hash = *blake3::hash(&bytes).as_bytes();
            let filter = Filter::decode(&bytes, &hash).expect("it was encoded");
            assert_eq!(filter.lines() as usize, bytes.len() / LINE_LEN);
            assert!((0..blocks).all(|n| filter.may_have(prefix(n))));
            let wrong = (blocks..blocks + 10_000).filter(|&n| filter.may_have(prefix(n))).count();
            assert!(wrong < 300, "{wrong} of 10000 others with {blocks} blocks");
        }
        assert!(!Filter::new(0).may_have(5));
    }

    // A damaged filter would deny what is there, and nobody would notice but by the growth of the store.
    #[test]
    fn a_damaged_filter_is_refused() {
        let mut bytes = Filter::new(60).encode();
        let hash = *blake3::hash(&bytes).as_bytes();
        assert!(Filter::decode(&bytes, &hash).is_ok());
        bytes[3] = 1;
        assert!(Filter::decode(&bytes, &hash).is_err());
    }
}
