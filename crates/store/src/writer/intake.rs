//! The bounded way from the caller's thread to the workers.
//!
//! ```text
//!   push ──▶ in memory, up to a bound ──┐
//!        └─▶ data in the spill file ────┴──▶ pop, in the order of push, with a number
//! ```
//!
//! A capture must take pages as fast as they come, or the guest waits. So when the memory is full, the data of further
//! batches goes to a raw file without a name, which is bounded too. Only when both are full does `push` wait. A spill
//! file that cannot be made or written is done without.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::batch::{BATCH_BYTES, Batch, Item};
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use crate::storage::{Storage, StorageFile};

/// Bytes of the spill file for one batch: a batch can pass its limit by the last block.
const SLOT_BYTES: usize = BATCH_BYTES + (64 << 10);
/// Empty batches that are kept for use.
const MAX_SPARE: usize = 64;
/// Part of the free space that a spill file may take.
const SPILL_SHARE: u64 = 4;

/// Sizes of an intake.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Bytes of batches in memory.
    pub(super) memory_bytes: usize,
    /// Bytes of the spill file.
    pub(super) spill_bytes: u64,
}

/// The queue; shared by the caller's thread and the workers.
pub(super) struct Intake {
    bounds: Bounds,
    storage: Arc<dyn Storage>,
    spill_name: String,
    state: Mutex<State>,
    /// Told when a batch came, or none comes any more.
    filled: Condvar,
    /// Told when there is room, or nobody takes batches any more.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Memory of the batches in `entries`.
    memory_bytes: usize,
    /// Number of the batch that is popped next.
    next: u64,
    spare: Vec<Batch>,
    spill: Spill,
    is_closed: bool,
    is_stopped: bool,
}

enum Entry {
    Memory(Batch),
    Spilled { items: Vec<Item>, len: usize, slot: u64 },
}

#[derive(Default)]
struct Spill {
    /// None until it is needed.
    file: Option<Arc<dyn StorageFile>>,
    free: Vec<u64>,
    slots: u64,
    max_slots: u64,
    /// Whether it could not be made or written.
    is_given_up: bool,
}

/// Nobody takes batches any more.
#[derive(Debug)]
pub(super) struct Stopped;

impl Intake {
    /// Makes an empty queue; `spill_name` is the name that the spill file has for a moment.
    pub(super) fn new(bounds: Bounds, storage: Arc<dyn Storage>, spill_name: String) -> Intake {
        Intake {
            bounds,
            storage,
            spill_name,
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    /// Adds a batch and returns an empty one; waits only when memory and spill file are full.
    pub(super) fn push(&self, batch: Batch) -> Result<Batch, Stopped> {
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return Err(Stopped);
            }
            let cost = batch.cost();
            if state.entries.is_empty() || state.memory_bytes + cost <= self.bounds.memory_bytes {
                state.memory_bytes += cost;
                state.entries.push_back(Entry::Memory(batch));
                let spare = state.spare.pop();
                drop(state);
                self.filled.notify_one();
                return Ok(spare.unwrap_or_default());
            }
            if let Some((file, slot)) = self.spill_slot(&mut state, batch.data.len()) {
                drop(state);
                return self.push_spilled(batch, &*file, slot);
            }
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the next batch and returns it with its number; none when no more come.
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub(super) fn pop(&self) -> io::Result<Option<(u64, Batch)>> {
        let mut state = self.lock();
        let entry = loop {
            if state.is_stopped {
                return Ok(None);
            }
            if let Some(entry) = state.entries.pop_front() {
                break entry;
            }
            if state.is_closed {
                return Ok(None);
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let number = state.next;
        state.next += 1;
        match entry {
            Entry::Memory(batch) => {
                state.memory_bytes -= batch.cost();
                drop(state);
                self.emptied.notify_one();
                Ok(Some((number, batch)))
            }
            Entry::Spilled { items, len, slot } => {
                let mut batch = state.spare.pop().unwrap_or_default();
                let file = state.spill.file.clone();
                drop(state);
                batch.items = items;
                batch.data.resize(len, 0);
                let file = file.ok_or(io::ErrorKind::NotFound)?;
                file.read_at(slot * SLOT_BYTES as u64, &mut batch.data)?;
                self.lock().spill.free.push(slot);
                self.emptied.notify_one();
                Ok(Some((number, batch)))
            }
        }
    }

    /// Takes a batch back, to be filled again.
    pub(super) fn give_back(&self, mut batch: Batch) {
        batch.clear();
        let mut state = self.lock();
        if state.spare.len() < MAX_SPARE {
            state.spare.push(batch);
        }
    }

    /// Says that no more batches come: workers end when all are taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_all();
    }

    /// Gives everything up: nothing is pushed or popped any more.
    pub(super) fn stop(&self) {
        self.lock().is_stopped = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    /// Finds a place in the spill file, which is made when it is first needed.
    fn spill_slot(&self, state: &mut State, len: usize) -> Option<(Arc<dyn StorageFile>, u64)> {
        let spill = &mut state.spill;
        if spill.is_given_up || len == 0 || len > SLOT_BYTES {
            return None;
        }
        if spill.file.is_none() {
            let free_bytes = self.storage.free_bytes().unwrap_or(0);
            spill.max_slots = self.bounds.spill_bytes.min(free_bytes / SPILL_SHARE) / SLOT_BYTES as u64;
            spill.file = (spill.max_slots > 0).then(|| self.make_spill_file()).flatten();
            spill.is_given_up = spill.file.is_none();
        }
        let file = Arc::clone(spill.file.as_ref()?);
        let slot = spill.free.pop().or_else(|| {
            let slot = spill.slots;
            spill.slots += u64::from(slot < spill.max_slots);
            (slot < spill.max_slots).then_some(slot)
        })?;
        Some((file, slot))
    }

    /// Makes a file that loses its name at once, so that it goes with its last handle.
    fn make_spill_file(&self) -> Option<Arc<dyn StorageFile>> {
        let file = self.storage.create(&self.spill_name).ok()?;
        self.storage.remove(&self.spill_name).ok()?;
        Some(Arc::from(file))
    }

    /// Writes the data of a batch to its slot, without the lock: there is one caller, so the order is kept.
    fn push_spilled(&self, mut batch: Batch, file: &dyn StorageFile, slot: u64) -> Result<Batch, Stopped> {
        let written = file.write_at(slot * SLOT_BYTES as u64, &batch.data);
        let mut state = self.lock();
        if written.is_err() {
            // A full disk, most likely. What was spilled before is still there to be read.
            state.spill.is_given_up = true;
            drop(state);
            return self.push(batch);
        }
        let items = std::mem::take(&mut batch.items);
        state.entries.push_back(Entry::Spilled { items, len: batch.data.len(), slot });
        drop(state);
        self.filled.notify_one();
        batch.clear();
        Ok(batch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sync::{alone, explore, thread};
    use super::*;
    use crate::block::BlockSize;
    use crate::storage::DirStorage;

    fn intake(memory_bytes: usize, spill_slots: u64) -> (tempfile::TempDir, Intake) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let storage = Arc::new(DirStorage::new(folder.path()).expect("a folder"));
        let bounds = Bounds { memory_bytes, spill_bytes: spill_slots * SLOT_BYTES as u64 };
        (folder, Intake::new(bounds, storage, "x.spill.part".to_owned()))
    }

    fn batch(tag: u8) -> Batch {
        let mut batch = Batch::new();
        batch.push_zero(0, 1);
        batch.push_data(0, u32::from(tag), BlockSize::Page4K, &[tag; 4096]);
        batch
    }

    fn tags(intake: &Intake) -> Vec<(u64, u8)> {
        let mut found = Vec::new();
        while let Some((number, batch)) = intake.pop().expect("readable") {
            let blocks: Vec<_> = batch.blocks().collect();
            let (item, data) = blocks[1];
            let tag = item.block.to_le_bytes()[0];
            assert_eq!(data, Some(&[tag; 4096][..]), "a batch keeps its content");
            assert_eq!(blocks[0].1, None);
            found.push((number, tag));
            intake.give_back(batch);
        }
        found
    }

    // The last put of a page wins: batches must come out in order, whether they went through memory or the file.
    #[test]
    fn order_is_kept_through_memory_and_spill_file() {
        alone(|| {
            let (folder, intake) = intake(3 * 4200, 4);
            for tag in 0..7 {
                intake.push(batch(tag)).expect("there is room");
            }
            assert_eq!(
                std::fs::read_dir(folder.path()).expect("a folder").count(),
                0,
                "the file has no name"
            );
            assert_eq!(intake.lock().spill.slots, 4);
            intake.close();
            assert_eq!(tags(&intake), (0..7).map(|tag| (u64::from(tag), tag)).collect::<Vec<_>>());
        });
    }

    // The bound is the promise that a capture does not eat the host's memory or disk: a full queue makes its caller wait.
    // Whoever takes the batches, each comes out once, with its number and content, and all end when no more come.
    #[test]
    fn a_full_queue_waits_until_there_is_room() {
        const BATCHES: u8 = 8;
        for spill_slots in [0, 2] {
            explore(move || {
                let (_folder, intake) = intake(2 * 4200, spill_slots);
                let intake = Arc::new(intake);
                let workers: Vec<_> = (0..2)
                    .map(|_| {
                        let intake = Arc::clone(&intake);
                        thread::spawn(move || tags(&intake))
                    })
                    .collect();
                for tag in 0..BATCHES {
                    intake.push(batch(tag)).expect("room comes");
                    let state = intake.lock();
                    assert!(state.memory_bytes <= 2 * 4200 && state.spill.slots <= spill_slots, "bounded");
                }
                intake.close();
                let mut found: Vec<_> =
                    workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
                found.sort_unstable();
                assert_eq!(found, (0..BATCHES).map(|tag| (u64::from(tag), tag)).collect::<Vec<_>>());
            });
        }
    }

    // A caller that waits must hear that the workers have failed, and so must a worker that waits, or a capture would hang.
    #[test]
    fn stopping_wakes_all_that_wait() {
        explore(|| {
            let (_folder, intake) = intake(0, 0);
            let intake = Arc::new(intake);
            intake.push(batch(0)).expect("one is always taken");
            let caller = {
                let intake = Arc::clone(&intake);
                thread::spawn(move || (1..4).try_for_each(|tag| intake.push(batch(tag)).map(drop)).is_err())
            };
            let worker = {
                let intake = Arc::clone(&intake);
                thread::spawn(move || drop(intake.pop()))
            };
            intake.stop();
            assert!(caller.join().expect("no panic"), "two batches are never taken");
            worker.join().expect("no panic");
            assert!(intake.pop().expect("nothing to read").is_none());
        });
    }
}
