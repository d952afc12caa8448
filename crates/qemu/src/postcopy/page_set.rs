//! A set of pages of one block, as bits.

use std::ops::Range;

/// Pages below a fixed count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageSet {
    words: Vec<u64>,
    pages: u64,
}

impl PageSet {
    /// The empty set of a block of `pages` pages.
    pub(super) fn new(pages: u64) -> Self {
        // A block is in memory on the host that runs it, so its bits are too.
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], pages }
    }

    /// How many pages the block has.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether a page is in the set.
    pub(super) fn contains(&self, page: u64) -> bool {
        page < self.pages && self.word(page / 64) >> (page % 64) & 1 == 1
    }

    /// Adds a page; says whether it was not there.
    pub(super) fn insert(&mut self, page: u64) -> bool {
        let bit = 1 << (page % 64);
        match usize::try_from(page / 64).ok().and_then(|at| self.words.get_mut(at)) {
            Some(word) if page < self.pages && *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Adds a range; what lies beyond the block is left out.
    pub(super) fn insert_range(&mut self, pages: Range<u64>) {
        for page in pages.start..pages.end.min(self.pages) {
            self.insert(page);
        }
    }

    /// How many pages are in the set.
    pub(super) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many pages are in this set and not in `other`.
    pub(super) fn count_without(&self, other: &Self) -> u64 {
        self.words.iter().zip(&other.words).map(|(own, other)| u64::from((own & !other).count_ones())).sum()
    }

    /// The first page at or after `from` that is in this set and not in `other`.
    pub(super) fn next_without(&self, other: &Self, from: u64) -> Option<u64> {
        let mut at = from / 64;
        let mut mask = u64::MAX << (from % 64);
        while at * 64 < self.pages {
            let found = self.word(at) & !other.word(at) & mask;
            if found != 0 {
                return Some(at * 64 + u64::from(found.trailing_zeros()));
            }
            mask = u64::MAX;
            at += 1;
        }
        None
    }

    /// Adds the pages of a bitmap, lowest bit of the first byte first; bits beyond the block are left out.
    pub(super) fn insert_bits(&mut self, bytes: &[u8]) {
        for (at, byte) in (0..).zip(bytes) {
            let ones = (0..8).filter(|bit| byte >> bit & 1 == 1);
            ones.for_each(|bit| {
                self.insert(at * 8 + bit);
            });
        }
    }

    fn word(&self, at: u64) -> u64 {
        usize::try_from(at).ok().and_then(|at| self.words.get(at)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Guards the search over words against an off-by-one that would leave a page of the guest out.
        #[test]
        fn the_next_page_is_that_of_a_plain_set(
            own in proptest::collection::btree_set(0_u64..200, 0..200),
            other in proptest::collection::btree_set(0_u64..200, 0..200),
            from in 0_u64..210,
        ) {
            let bits = |pages: &BTreeSet<u64>| {
                let mut set = PageSet::new(200);
                pages.iter().for_each(|page| assert!(set.insert(*page)));
                set
            };
            let (own_bits, other_bits) = (bits(&own), bits(&other));
            let left: Vec<u64> = own.difference(&other).copied().collect();
            prop_assert_eq!(own_bits.next_without(&other_bits, from), left.iter().copied().find(|page| *page >= from));
            prop_assert_eq!(own_bits.count_without(&other_bits), left.len() as u64);
        }
    }

    /// Guards the bit order of QEMU's bitmap, and its padding.
    #[test]
    fn bits_come_lowest_first_and_padding_is_left_out() {
        let mut set = PageSet::new(10);
        set.insert_bits(&[0b0000_0001, 0b1111_1110, 0xff, 0, 0, 0, 0, 0]);
        let found: Vec<u64> = (0..100).filter(|page| set.contains(*page)).collect();
        assert_eq!(found, [0, 9]);
        assert!(!set.insert(10));
    }
}
