//! The blocks that were stored for this image and are not in the index yet.
//!
//! By it the second of two workers that meet the same new block at once learns of the first. Cut into shards, so that
//! workers rarely wait for each other; bounded by being emptied into the index.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Mutex, MutexGuard, PoisonError};
use crate::hash::BlockHash;

/// Few in tests: what goes wrong between two of them is met in more of the schedules that are tried.
const SHARDS: usize = if cfg!(test) { 2 } else { 64 };

/// A group's number and a slot.
pub(super) type GroupSlot = (u32, u8);

type Shard = HashMap<BlockHash, GroupSlot, BuildHasherDefault<Prefix>>;

/// Places of blocks by their hash.
pub(super) struct Seen {
    shards: Vec<Mutex<Shard>>,
    len: AtomicUsize,
    /// How often blocks were forgotten.
    forgotten: AtomicUsize,
}

/// What became of a block that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It has the place that was asked for.
    Made,
    /// It has another place.
    At(GroupSlot),
    /// Blocks were forgotten since it was looked for: it can be in the index by now.
    LookAgain,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            len: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
        }
    }

    /// Returns what [`Seen::claim_or_find`] is to be told by one who looks for blocks from now on.
    pub(super) fn forgotten(&self) -> usize {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Returns about how many blocks there are.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, hash: &BlockHash) -> Option<GroupSlot> {
        self.shard(hash).get(hash).copied()
    }

    /// Notes the place of a block, unless it has one, or had one that was forgotten since [`Seen::forgotten`] gave `looked`.
    fn claim(&self, hash: BlockHash, place: GroupSlot, looked: usize) -> Claim {
        match self.shard(&hash).entry(hash) {
            Entry::Occupied(found) => Claim::At(*found.get()),
            Entry::Vacant(_) if self.forgotten() != looked => Claim::LookAgain,
            Entry::Vacant(vacant) => {
                vacant.insert(place);
                self.len.fetch_add(1, Ordering::Relaxed);
                Claim::Made
            }
        }
    }

    /// Claims a place for a block that is to be stored, or returns the one that it has, if it was stored since it was looked
    /// for: here, or, where blocks were forgotten since, by what `find` says of the index.
    pub(super) fn claim_or_find<E>(
        &self,
        hash: BlockHash,
        place: GroupSlot,
        mut looked: usize,
        mut find: impl FnMut() -> Result<Option<GroupSlot>, E>,
    ) -> Result<Option<GroupSlot>, E> {
        loop {
            match self.claim(hash, place, looked) {
                Claim::Made => return Ok(None),
                Claim::At(place) => return Ok(Some(place)),
                Claim::LookAgain => {
                    // Before the search: what is forgotten while it lasts is looked for once more.
                    looked = self.forgotten();
                    if let Some(place) = find()? {
                        return Ok(Some(place));
                    }
                }
            }
        }
    }

    /// Forgets the blocks of groups for which `forget` holds, by number; the index knows them by now.
    pub(super) fn forget(&self, forget: &[bool]) {
        // Before the first is gone: who finds no block under a shard's lock finds this.
        self.forgotten.fetch_add(1, Ordering::SeqCst);
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
    use std::sync::Arc;

    use super::super::sync::{alone, explore, thread};
    use super::*;

    // One of two workers stores a block, the other refers to it; what the index knows is forgotten, the rest is not.
    #[test]
    fn the_first_place_counts_until_it_is_forgotten() {
        alone(|| {
            let seen = Seen::new();
            let hash = |n: u32| BlockHash::of(&n.to_le_bytes());
            for n in 0..100 {
                assert_eq!(seen.claim(hash(n), (n % 2, 7), seen.forgotten()), Claim::Made);
            }
            let looked = seen.forgotten();
            assert_eq!(seen.claim(hash(5), (77, 7), looked), Claim::At((1, 7)));
            seen.forget(&[false, true]);
            assert_eq!(seen.claim(hash(5), (77, 7), looked), Claim::LookAgain);
            assert_eq!(seen.claim(hash(4), (77, 7), looked), Claim::At((0, 7)));
            assert_eq!(seen.len(), 50);
            assert_eq!((seen.get(&hash(4)), seen.get(&hash(5))), (Some((0, 7)), None));
        });
    }

    // Two workers meet the same new block while blocks go from memory to the index: it is stored once. A block is in the
    // index before it is forgotten, but who looked there before that and here after it finds it in neither.
    #[test]
    fn a_block_is_stored_once_whoever_forgets_meanwhile() {
        explore(|| {
            let seen = Arc::new(Seen::new());
            let index = Arc::new(Mutex::new(HashMap::new()));
            let hash = BlockHash::of(b"new");
            let workers: Vec<_> = (0..2)
                .map(|group: u32| {
                    let (seen, index) = (Arc::clone(&seen), Arc::clone(&index));
                    thread::spawn(move || {
                        let find = || Ok::<_, ()>(index.lock().expect("no panic").get(&hash).copied());
                        let looked = seen.forgotten();
                        if let Some(place) = seen.get(&hash).or_else(|| find().expect("it never fails")) {
                            return (false, place);
                        }
                        let other =
                            seen.claim_or_find(hash, (group, 0), looked, find).expect("it never fails");
                        (other.is_none(), other.unwrap_or((group, 0)))
                    })
                })
                .collect();
            let indexer = {
                let (seen, index) = (Arc::clone(&seen), Arc::clone(&index));
                thread::spawn(move || {
                    let sealed = seen.get(&hash);
                    index.lock().expect("no panic").extend(sealed.map(|place| (hash, place)));
                    let forget = [0, 1].map(|group| sealed.is_some_and(|(sealed, _)| sealed == group));
                    seen.forget(&forget);
                })
            };
            let placed: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("no panic")).collect();
            indexer.join().expect("no panic");
            assert_eq!(placed.iter().filter(|(is_made, _)| *is_made).count(), 1, "{placed:?}");
            assert_eq!(placed[0].1, placed[1].1, "both refer to the one place");
        });
    }
}
