//! Brings what the workers found back into the order in which the blocks were put.
//!
//! Workers finish batches in any order, but a block can be put again, and the last put wins. So results wait here until
//! those of all earlier batches are in the page maps. How far a worker may be ahead is bounded.

use std::collections::BTreeMap;

use super::page_map::{PageMap, Place};
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Batches whose results can wait; few in tests, so that they come to wait.
const WINDOW: u64 = if cfg!(test) { 4 } else { 1024 };

/// Where one block is.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedBlock {
    /// Position of the space.
    pub(super) space: u32,
    pub(super) block: u32,
    pub(super) place: Place,
}

/// The page maps of all spaces, and results that wait.
#[derive(Default)]
pub(super) struct Reorder {
    state: Mutex<State>,
    advanced: Condvar,
}

#[derive(Default)]
struct State {
    /// Batch whose results go into the maps next.
    next: u64,
    waiting: BTreeMap<u64, Vec<PlacedBlock>>,
    maps: Vec<PageMap>,
    is_stopped: bool,
}

impl Reorder {
    /// Takes the results of a batch, all of them, and returns an empty list.
    ///
    /// Waits when the batch is too far ahead; the earliest one never waits.
    pub(super) fn put(&self, batch: u64, placed: Vec<PlacedBlock>) -> Vec<PlacedBlock> {
        let mut state = self.lock();
        while batch >= state.next + WINDOW && !state.is_stopped {
            state = self.advanced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if batch != state.next {
            state.waiting.insert(batch, placed);
            return Vec::new();
        }
        let mut current = placed;
        loop {
            state.apply(&current);
            match state.next_waiting() {
                Some(following) => current = following,
                None => break,
            }
        }
        drop(state);
        self.advanced.notify_all();
        current.clear();
        current
    }

    /// Lets all who wait go on: the image is given up.
    pub(super) fn stop(&self) {
        self.lock().is_stopped = true;
        self.advanced.notify_all();
    }

    /// Returns the page maps of the spaces that have been written to; nothing may be waiting.
    pub(super) fn take_maps(&self) -> Vec<PageMap> {
        let mut state = self.lock();
        debug_assert!(state.waiting.is_empty(), "all batches are there");
        std::mem::take(&mut state.maps)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, placed: &[PlacedBlock]) {
        for PlacedBlock { space, block, place } in placed {
            let space = *space as usize;
            if space >= self.maps.len() {
                self.maps.resize_with(space + 1, PageMap::default);
            }
            self.maps[space].set(*block, *place);
        }
        self.next += 1;
    }

    fn next_waiting(&mut self) -> Option<Vec<PlacedBlock>> {
        self.waiting.remove(&self.next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::sync::atomic::{AtomicU64, Ordering};
    use super::super::sync::{explore, thread};
    use super::*;

    fn result(group: u32) -> Vec<PlacedBlock> {
        vec![PlacedBlock { space: 1, block: 0, place: Place::Group(group, 0) }]
    }

    // Results come in any order; the block must end where the last batch put it. A worker that runs ahead must not pile
    // results up without bound, and the one that all wait for must not wait itself.
    #[test]
    fn the_last_batch_wins_in_any_order() {
        const BATCHES: u64 = 3 * WINDOW;
        explore(|| {
            let (reorder, next) = (Arc::new(Reorder::default()), Arc::new(AtomicU64::new(0)));
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let (reorder, next) = (Arc::clone(&reorder), Arc::clone(&next));
                    thread::spawn(move || {
                        loop {
                            let batch = next.fetch_add(1, Ordering::SeqCst);
                            if batch >= BATCHES {
                                return;
                            }
                            reorder.put(batch, result(u32::try_from(batch).expect("small")));
                            let state = reorder.lock();
                            assert!((state.waiting.len() as u64) < WINDOW, "{} wait", state.waiting.len());
                        }
                    })
                })
                .collect();
            workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
            let maps = reorder.take_maps();
            let found: Vec<_> = maps[1].regions().flat_map(|(_, region)| region.blocks()).collect();
            let last = u32::try_from(BATCHES - 1).expect("small");
            assert_eq!(found, [(0, Place::Group(last, 0))]);
        });
    }

    // Where the image is given up, a worker that waits for a batch that never comes must end.
    #[test]
    fn stopping_wakes_a_worker_that_is_ahead() {
        explore(|| {
            let reorder = Arc::new(Reorder::default());
            let ahead = {
                let reorder = Arc::clone(&reorder);
                thread::spawn(move || reorder.put(WINDOW, result(1)))
            };
            reorder.stop();
            ahead.join().expect("no panic");
        });
    }
}
