//! A first guess at a snapshot's working set, from the order in which a capture's pages come.
//!
//! What a guest touches right after the instant it will touch right after a restore, too. A background capture sends a page
//! ahead of its turn when the guest is about to write it. A precopy capture sends pages again that were written meanwhile;
//! the last of them were written last. It is a guess: it makes a first restore faster, and nothing depends on it.

use std::collections::{HashSet, VecDeque};

use vmrewind_qemu::postcopy::PageAddress;

/// Most pages in a guess: 16 MiB.
const GUESS_PAGES: usize = 4096;

/// Looks at pages as they come.
#[derive(Debug, Default)]
pub(crate) struct FirstGuess {
    /// For each block, which pages came.
    seen: Vec<Vec<u64>>,
    /// The page whose turn it is.
    turn: PageAddress,
    /// Pages that came ahead of their turn, in their order.
    early: Vec<PageAddress>,
    is_early: HashSet<PageAddress>,
    /// The last pages that came again.
    again: VecDeque<PageAddress>,
}

impl FirstGuess {
    /// Takes note of a page.
    pub(crate) fn page(&mut self, block: usize, page: u64) {
        let address = PageAddress { block, page };
        if !self.is_new(address) {
            if self.again.len() == GUESS_PAGES {
                self.again.pop_front();
            }
            self.again.push_back(address);
            return;
        }
        if self.is_in_turn(address) {
            self.turn = PageAddress { block, page: page + 1 };
        } else if self.early.len() < GUESS_PAGES {
            self.early.push(address);
            self.is_early.insert(address);
        }
    }

    /// The pages that the guest is thought to touch first, each once.
    pub(crate) fn finish(self) -> Vec<PageAddress> {
        let mut known = HashSet::new();
        self.early.into_iter().chain(self.again).filter(|page| known.insert(*page)).collect()
    }

    fn is_new(&mut self, PageAddress { block, page }: PageAddress) -> bool {
        if self.seen.len() <= block {
            self.seen.resize(block + 1, Vec::new());
        }
        // The decoder gives no page outside of its block, which is in memory on this host.
        let at = usize::try_from(page / 64).unwrap_or(usize::MAX);
        let words = &mut self.seen[block];
        if words.len() <= at {
            words.resize(at + 1, 0);
        }
        let bit = 1 << (page % 64);
        let new = words[at] & bit == 0;
        words[at] |= bit;
        new
    }

    /// Whether a page is the next, but for those that came early; each block begins anew.
    fn is_in_turn(&self, PageAddress { block, page }: PageAddress) -> bool {
        let from = if block == self.turn.block { self.turn.page } else { 0 };
        let gap = page.saturating_sub(from);
        page >= from
            && gap <= GUESS_PAGES as u64
            && (from..page).all(|page| self.is_early.contains(&PageAddress { block, page }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(pages: &[(usize, u64)]) -> Vec<(usize, u64)> {
        let mut guess = FirstGuess::default();
        pages.iter().for_each(|(block, page)| guess.page(*block, *page));
        guess.finish().into_iter().map(|page| (page.block, page.page)).collect()
    }

    /// Guards against taking the scan itself for what the guest touches: only what came out of its turn counts, and the
    /// scan goes on over it and into the next block.
    #[test]
    fn pages_ahead_of_their_turn_count() {
        assert_eq!(guess(&[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]), []);
        let pages = [(0, 0), (1, 3), (0, 1), (0, 3), (0, 2), (0, 4), (1, 0), (1, 1), (1, 2), (1, 4)];
        assert_eq!(guess(&pages), [(1, 3), (0, 3)]);
    }

    /// Pages that come again were written meanwhile.
    #[test]
    fn pages_that_come_again_count() {
        assert_eq!(guess(&[(0, 0), (0, 1), (0, 2), (0, 1), (0, 0), (0, 1)]), [(0, 1), (0, 0)]);
    }

    /// It is bounded: what was written last counts.
    #[test]
    fn the_last_that_came_again_are_kept() {
        let pages: Vec<(usize, u64)> = (0..2).flat_map(|_| (0..5000).map(|page| (0, page))).collect();
        let found = guess(&pages);
        assert_eq!((found.len(), found[0], found.last()), (GUESS_PAGES, (0, 904), Some(&(0, 4999))));
    }
}
