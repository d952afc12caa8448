//! The packs that one image is written to: one is open at a time, full ones are sealed in the background.
//!
//! ```text
//!   workers ──append──▶ open pack ──full──▶ sealing thread: directory, sync ──▶ sealed ──▶ published
//! ```
//!
//! Packs get their names when the image is complete, or when the blocks in them are too many to be kept in memory and go to
//! the index. So an image that is given up leaves little or nothing, which matters most when the disk is full.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::error::StoreError;
use crate::hash::PackId;
use crate::pack::{NewObject, PackWriter, SealedPart};
use crate::shared::Latch;

/// Full packs that wait to be sealed, at most; beyond that workers wait.
const MAX_WAITING: usize = 2;

/// The packs of one image.
pub(super) struct Packs {
    latch: Arc<Latch>,
    /// Beginning of the packs' temporary names.
    name: String,
    /// Payload after which a pack is full, at most.
    pack_bytes: u64,
    open: RwLock<Option<Open>>,
    next: AtomicU32,
    sealing: Mutex<Option<Sealing>>,
}

/// What became of the packs of one image so far.
#[derive(Default)]
pub(super) struct SealedPacks {
    /// Complete packs without a name, by their numbers.
    unnamed: Vec<(u32, SealedPart)>,
    /// Numbers of the packs that have been published.
    pub(super) published: BTreeSet<u32>,
    /// Ids of packs that were published and that the index has not been told of.
    pub(super) unindexed: Vec<PackId>,
    /// Bytes of all packs that were published.
    pub(super) stored_bytes: u64,
}

impl SealedPacks {
    /// Gives all packs their names; durable once the folder is synced.
    pub(super) fn publish(&mut self) -> Result<(), StoreError> {
        for (number, part) in self.unnamed.drain(..) {
            let pack = part.publish()?;
            self.published.insert(number);
            self.unindexed.push(pack.id);
            self.stored_bytes += pack.stored_bytes;
        }
        Ok(())
    }
}

struct Open {
    number: u32,
    writer: PackWriter,
}

struct Sealing {
    full: SyncSender<Open>,
    thread: JoinHandle<Result<SealedPacks, StoreError>>,
}

impl Packs {
    /// Makes no pack yet. `sealed` gets, in a thread of its own, the packs so far whenever one is complete.
    pub(super) fn begin(
        latch: Arc<Latch>,
        name: String,
        pack_bytes: u64,
        sealed: impl FnMut(&mut SealedPacks) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Packs, StoreError> {
        let (full, waiting) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("pack-sealer".to_owned())
            .spawn(move || seal_all(&waiting, sealed))
            .map_err(|source| StoreError::Io { op: "start a thread for", path: name.clone(), source })?;
        Ok(Packs {
            latch,
            name,
            pack_bytes,
            open: RwLock::new(None),
            next: AtomicU32::new(0),
            sealing: Mutex::new(Some(Sealing { full, thread })),
        })
    }

    /// Appends an object to the open pack, and returns the number of that pack.
    pub(super) fn append(&self, object: NewObject<'_>) -> Result<u32, StoreError> {
        let (number, is_full) = loop {
            if let Some(appended) = self.append_to_open(object)? {
                break appended;
            }
            self.open_next()?;
        };
        if is_full {
            self.retire(number);
        }
        Ok(number)
    }

    /// Appends to the open pack, if there is one: its number, and whether it is full now.
    fn append_to_open(&self, object: NewObject<'_>) -> Result<Option<(u32, bool)>, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &*open else { return Ok(None) };
        open.writer.append(object)?;
        let is_full = open.writer.is_full() || open.writer.payload_bytes() >= self.pack_bytes;
        Ok(Some((open.number, is_full)))
    }

    /// Seals the open pack too, and waits for all. Most have no names yet.
    pub(super) fn finish(&self) -> Result<SealedPacks, StoreError> {
        let last = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(last) = last {
            self.send(last);
        }
        self.join()
    }

    /// Ends the thread and gives the open pack up; returns what the thread failed with.
    pub(super) fn abandon(&self) -> Option<StoreError> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        self.join().err()
    }

    fn join(&self) -> Result<SealedPacks, StoreError> {
        let sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Sealing { full, thread }) = sealing else { return Err(StoreError::Latched) };
        drop(full);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn open_next(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let part = format!("{}-{number}.pack.part", self.name);
            *open = Some(Open { number, writer: PackWriter::begin(Arc::clone(&self.latch), &part)? });
        }
        Ok(())
    }

    /// Sends the open pack to be sealed, if it is still the one of that number.
    fn retire(&self, number: u32) {
        let full =
            self.open.write().unwrap_or_else(PoisonError::into_inner).take_if(|open| open.number == number);
        if let Some(full) = full {
            self.send(full);
        }
    }

    fn send(&self, full: Open) {
        let sealing = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sealing.as_ref().map(|sealing| sealing.full.clone());
        drop(sealing);
        if let Some(sender) = sender {
            // A thread that has ended has failed: `finish` returns its error.
            let _ = sender.send(full);
        }
    }
}

fn seal_all(
    waiting: &Receiver<Open>,
    mut sealed: impl FnMut(&mut SealedPacks) -> Result<(), StoreError>,
) -> Result<SealedPacks, StoreError> {
    let mut packs = SealedPacks::default();
    while let Ok(Open { number, writer }) = waiting.recv() {
        packs.unnamed.extend(writer.seal()?.map(|part| (number, part)));
        sealed(&mut packs)?;
    }
    Ok(packs)
}
