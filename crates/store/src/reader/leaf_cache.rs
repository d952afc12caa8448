//! The leaves of one image that were used lately, decoded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::format::node::{Leaf, Run};
use crate::hash::HASH_LEN;

/// Bytes that the leaves of one image may take.
const MAX_BYTES: usize = 16 << 20;

/// Position of the space, and number of the leaf.
type Key = (u32, u64);

/// Leaves by space and number; the oldest ones go first.
#[derive(Default)]
pub(super) struct LeafCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leaves: HashMap<Key, Arc<Leaf>>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl LeafCache {
    /// Returns a leaf, which `load` reads where it is not there.
    pub(super) fn get_or_load(
        &self,
        key: Key,
        load: impl FnOnce() -> Result<Leaf, StoreError>,
    ) -> Result<Arc<Leaf>, StoreError> {
        if let Some(leaf) = self.lock().leaves.get(&key) {
            return Ok(Arc::clone(leaf));
        }
        // Without the lock: two threads may load the same leaf, which harms nobody.
        let leaf = Arc::new(load()?);
        let mut state = self.lock();
        if state.leaves.insert(key, Arc::clone(&leaf)).is_none() {
            state.order.push_back(key);
            state.bytes += weight(&leaf);
        }
        while state.bytes > MAX_BYTES {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some(gone) = state.leaves.remove(&oldest) {
                state.bytes -= weight(&gone);
            }
        }
        Ok(leaf)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(leaf: &Leaf) -> usize {
    size_of::<Leaf>() + leaf.groups.len() * HASH_LEN + leaf.runs.len() * size_of::<Run>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSize;
    use crate::hash::ObjectHash;

    // A page server keeps a reader for long: what it remembers is bounded, however large the image.
    #[test]
    fn what_is_kept_is_bounded() {
        let cache = LeafCache::default();
        let leaf = || Leaf {
            block_size: BlockSize::Page4K,
            groups: vec![ObjectHash::from_bytes([1; 32]); 1024],
            runs: Vec::new(),
        };
        for number in 0..2000 {
            cache.get_or_load((0, number), || Ok(leaf())).expect("loaded");
        }
        let state = cache.lock();
        assert!(state.bytes <= MAX_BYTES && state.leaves.len() == state.order.len());
        assert_eq!(state.bytes, state.leaves.values().map(|leaf| weight(leaf)).sum::<usize>());
        assert!(state.leaves.contains_key(&(0, 1999)) && !state.leaves.contains_key(&(0, 0)));
    }
}
