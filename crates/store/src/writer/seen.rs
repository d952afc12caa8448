//! The blocks that were stored for this image and are not in the index yet.
//!
//! By it the second of two workers that meet the same new block at once learns of the first. Cut into shards, so that
//! workers rarely wait for each other; bounded by being emptied into the index.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::hash::BlockHash;

const SHARDS: usize = 64;

/// A group's number and a slot.
pub(super) type SlotPlace = (u32, u8);

type Shard = HashMap<BlockHash, SlotPlace, BuildHasherDefault<Prefix>>;

/// Places of blocks by their hash.
pub(super) struct Seen {
    shards: Vec<Mutex<Shard>>,
    len: AtomicUsize,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), len: AtomicUsize::new(0) }
    }

    /// Returns about how many blocks there are.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, hash: &BlockHash) -> Option<SlotPlace> {
        self.shard(hash).get(hash).copied()
    }

    /// Notes the place of a block, unless it has one: then that is returned.
    pub(super) fn insert(&self, hash: BlockHash, place: SlotPlace) -> Option<SlotPlace> {
        match self.shard(&hash).entry(hash) {
            Entry::Occupied(found) => Some(*found.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(place);
                self.len.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Forgets the blocks of groups for which `forget` holds, by number.
    pub(super) fn forget(&self, forget: &[bool]) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, (group, _)| !forget.get(*group as usize).copied().unwrap_or(false));
            self.len.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
    }

    fn shard(&self, hash: &BlockHash) -> MutexGuard<'_, Shard> {
        // Not the bytes that `Prefix` takes.
        let at = usize::from(hash.as_bytes()[31]) % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the first bytes of a cryptographic hash as they are.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One of two workers stores a block, the other refers to it; what the index knows is forgotten, the rest is not.
    #[test]
    fn the_first_place_counts_until_it_is_forgotten() {
        let seen = Seen::new();
        let hash = |n: u32| BlockHash::of(&n.to_le_bytes());
        for n in 0..1000 {
            assert_eq!(seen.insert(hash(n), (n % 2, 7)), None);
        }
        assert_eq!(seen.insert(hash(5), (77, 7)), Some((1, 7)));
        seen.forget(&[false, true]);
        assert_eq!(seen.len(), 500);
        assert_eq!((seen.get(&hash(4)), seen.get(&hash(5))), (Some((0, 7)), None));
    }
}
