//! A worker: finds out for each block of a batch where its content is, and stores what is nowhere yet.
//!
//! ```text
//!   block ──▶ hash ──▶ parent's at the same place? ──▶ stored for this image? ──▶ in the index? ──▶ into the open group
//!                                                                          full group ──▶ hash, compress, append
//! ```
//!
//! A block that is in a group which is not written yet can be referred to: its place is known as soon as it is decided.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::batch::Batch;
use super::groups::{Groups, Sealed};
use super::intake::Intake;
use super::packs::Packs;
use super::page_map::Place;
use super::parent::{Likeness, ParentLeaf, ParentSpace};
use super::reorder::{Placed, Reorder};
use super::seen::Seen;
use crate::hash::{BlockHash, ObjectHash};
use crate::objects::Objects;
use crate::pack::{Encoder, Encoding, NewObject, ObjectKind};
use crate::tree;
use crate::{BlockSize, StoreError};

/// What the workers of one image share.
pub(super) struct Work {
    pub(super) objects: Arc<Objects>,
    pub(super) intake: Intake,
    pub(super) reorder: Reorder,
    pub(super) groups: Arc<Groups>,
    pub(super) seen: Arc<Seen>,
    pub(super) packs: Packs,
    /// For each space the parent's of the same name and block size.
    pub(super) parents: RwLock<Vec<Option<Arc<ParentSpace>>>>,
    pub(super) failure: Mutex<Option<StoreError>>,
}

impl Work {
    /// Gives the image up; the first error that says what happened is the one that is told.
    pub(super) fn fail(&self, error: StoreError) {
        let mut told = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread can find the store latched before the one that met the failure has come here.
        *told = Some(match told.take() {
            Some(first) => super::ending::prefer(first, Some(error)),
            None => error,
        });
        drop(told);
        self.stop();
    }

    /// Ends all workers.
    pub(super) fn stop(&self) {
        self.intake.stop();
        self.reorder.stop();
    }

    /// Returns the error that the workers met, once.
    pub(super) fn take_failure(&self) -> Option<StoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the parent's space for a space of the image.
    pub(super) fn parent(&self, space: u32) -> Option<Arc<ParentSpace>> {
        self.parents.read().unwrap_or_else(PoisonError::into_inner).get(space as usize)?.clone()
    }
}

/// One worker's own.
pub(super) struct Worker {
    work: Arc<Work>,
    encoder: Encoder,
    pages: OpenGroup,
    blocks: OpenGroup,
    /// The leaf of the parent that was looked at last, with its space and number.
    leaf: Option<(u32, u64, Option<Arc<ParentLeaf>>)>,
}

/// A group that is being filled.
#[derive(Default)]
struct OpenGroup {
    /// None before the first block.
    number: Option<u32>,
    data: Vec<u8>,
    hashes: Vec<BlockHash>,
    new_slots: u16,
}

impl Worker {
    pub(super) fn new(work: Arc<Work>) -> Worker {
        Worker {
            work,
            encoder: Encoder::new(),
            pages: OpenGroup::default(),
            blocks: OpenGroup::default(),
            leaf: None,
        }
    }

    /// Works until no batch comes any more; then nothing is left unwritten.
    pub(super) fn run(mut self) {
        // A panic must not leave the caller waiting for room in the queue.
        let work = Arc::clone(&self.work);
        let _stop = StopOnPanic(&work);
        if let Err(error) = self.work_off() {
            work.fail(error);
        }
    }

    fn work_off(&mut self) -> Result<(), StoreError> {
        let mut placed = Vec::new();
        let unreadable =
            |source| StoreError::Io { op: "read", path: "the queue's spill file".to_owned(), source };
        while let Some((number, batch)) = self.work.intake.pop().map_err(unreadable)? {
            self.place(&batch, &mut placed)?;
            placed = self.work.reorder.put(number, placed);
            self.work.intake.give_back(batch);
        }
        self.seal(BlockSize::Page4K)?;
        self.seal(BlockSize::Block64K)
    }

    fn place(&mut self, batch: &Batch, placed: &mut Vec<Placed>) -> Result<(), StoreError> {
        for (item, data) in batch.blocks() {
            let place = match (item.data, data) {
                (Some(size), Some(data)) => self.place_block(item.space, item.block, size, data)?,
                _ => Place::Zero,
            };
            placed.push(Placed { space: item.space, block: item.block, place });
        }
        Ok(())
    }

    fn place_block(
        &mut self,
        space: u32,
        block: u32,
        size: BlockSize,
        data: &[u8],
    ) -> Result<Place, StoreError> {
        let hash = BlockHash::of(data);
        let likeness = self.compare(space, block, &hash);
        if likeness == Likeness::Same {
            return Ok(Place::Parent);
        }
        if let Some((group, slot)) = self.work.seen.get(&hash) {
            return Ok(Place::Group(group, slot));
        }
        if likeness != Likeness::Scattered
            && let Some(found) = self.work.objects.index().find_block(&hash)?
        {
            let group = self.work.groups.known(found.group.entry.hash).ok_or_else(too_many)?;
            return Ok(Place::Group(group, found.slot));
        }
        self.store(size, data, hash, likeness)
    }

    /// Compares a block with the parent's at the same place.
    fn compare(&mut self, space: u32, block: u32, hash: &BlockHash) -> Likeness {
        let (number, position) = tree::locate(u64::from(block));
        if !matches!(&self.leaf, Some((of, at, _)) if *of == space && *at == number) {
            let leaf = self.work.parent(space).and_then(|parent| parent.leaf(number));
            self.leaf = Some((space, number, leaf));
        }
        match &self.leaf {
            Some((_, _, Some(leaf))) => leaf.compare(position, hash),
            _ => Likeness::Different,
        }
    }

    /// Puts a block into the open group, unless another worker was quicker.
    fn store(
        &mut self,
        size: BlockSize,
        data: &[u8],
        hash: BlockHash,
        likeness: Likeness,
    ) -> Result<Place, StoreError> {
        let group = match size {
            BlockSize::Page4K => &mut self.pages,
            BlockSize::Block64K => &mut self.blocks,
        };
        let number = match group.number {
            Some(number) => number,
            None => *group.number.insert(self.work.groups.open().ok_or_else(too_many)?),
        };
        // A group has at most 16 blocks.
        let slot = u8::try_from(group.hashes.len()).unwrap_or(u8::MAX);
        if let Some((group, slot)) = self.work.seen.insert(hash, (number, slot)) {
            return Ok(Place::Group(group, slot));
        }
        group.data.extend_from_slice(data);
        group.hashes.push(hash);
        group.new_slots |= u16::from(likeness == Likeness::Different) << slot;
        if group.hashes.len() >= usize::from(size.group_blocks()) {
            self.seal(size)?;
        }
        Ok(Place::Group(number, slot))
    }

    /// Writes the open group of blocks of that size, if it has any.
    fn seal(&mut self, size: BlockSize) -> Result<(), StoreError> {
        let group = match size {
            BlockSize::Page4K => &mut self.pages,
            BlockSize::Block64K => &mut self.blocks,
        };
        if group.hashes.is_empty() {
            return Ok(());
        }
        let Some(number) = group.number.take() else { return Ok(()) };
        let hash = ObjectHash::of(&group.data);
        // A guest may wait for its pages, nobody for disks that are archived.
        let encoding = match size {
            BlockSize::Page4K => Encoding::Lz4,
            BlockSize::Block64K => Encoding::Zstd,
        };
        let (encoding, payload) = self.encoder.encode(encoding, &group.data);
        let pack = self.work.packs.append(NewObject {
            hash,
            kind: ObjectKind::Group,
            encoding,
            // At most 256 KiB.
            raw_len: u32::try_from(group.data.len()).unwrap_or(u32::MAX),
            payload,
            blocks: Some((size, &group.hashes)),
        })?;
        self.work.groups.seal(Sealed { number, hash, new_slots: group.new_slots, pack });
        group.data.clear();
        group.hashes.clear();
        group.new_slots = 0;
        Ok(())
    }
}

struct StopOnPanic<'a>(&'a Work);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

fn too_many() -> StoreError {
    let source = std::io::ErrorKind::FileTooLarge.into();
    StoreError::Io { op: "refer to more groups in", path: "an image".to_owned(), source }
}
