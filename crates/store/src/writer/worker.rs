//! A worker: finds out for each block of a batch where its content is, and stores what is nowhere yet.
//!
//! ```text
//!   block ──▶ hash ──▶ parent's at the same place? ──▶ stored for this image? ──▶ in the index? ──▶ into the open group
//!                                                                                      │                  ▲
//!                                                   with those around it in few groups ┤                  │
//!                                                                                      └── in many ───────┘
//!                                                                          full group ──▶ hash, compress, append
//! ```
//!
//! A block that is in a group which is not written yet can be referred to: its place is known as soon as it is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::batch::{Batch, Item};
use super::groups::{Groups, SealedGroup};
use super::intake::Intake;
use super::packs::Packs;
use super::page_map::Place;
use super::parent::{Likeness, ParentLeaf, ParentSpace};
use super::reorder::{PlacedBlock, Reorder};
use super::scatter::given_up_in_run;
use super::seen::{GroupSlot, Seen};
use crate::block::BlockSize;
use crate::entry::{Encoding, ObjectKind};
use crate::error::StoreError;
use crate::hash::{BlockHash, ObjectHash};
use crate::index::BlockPlace;
use crate::objects::Objects;
use crate::pack::{Encoder, NewObject};
use crate::tree;

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

    /// Claims a place for a block that is to be stored, unless it has been stored meanwhile: then that place is returned.
    fn claim(&self, content: &Content<'_>, place: GroupSlot) -> Result<Option<GroupSlot>, StoreError> {
        self.seen.claim_or_find(content.hash, place, content.looked, || {
            let found = self.objects.index().find_block(&content.hash)?;
            Ok(found.and_then(|found| self.own_place(&found)))
        })
    }

    /// Returns the place of a block of the index that this image stored.
    fn own_place(&self, found: &BlockPlace) -> Option<GroupSlot> {
        self.groups.own(&found.group.entry.hash).map(|group| (group, found.slot))
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

/// A block that is not zero.
#[derive(Clone, Copy)]
struct Content<'a> {
    size: BlockSize,
    data: &'a [u8],
    hash: BlockHash,
    /// What [`Seen::claim_or_find`] is to be told.
    looked: usize,
}

/// Where the content of a block was found.
enum Found<'a> {
    /// At a place that the image refers to anyway.
    At(Place),
    /// In a group, and a slot of it, of another image.
    Elsewhere(ObjectHash, u8, Content<'a>),
    /// In no place that it can stay at; and whether it is in no image yet.
    Nowhere(Content<'a>, bool),
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

    fn place(&mut self, batch: &Batch, placed: &mut Vec<PlacedBlock>) -> Result<(), StoreError> {
        let mut blocks = batch.blocks().peekable();
        let mut run = Vec::new();
        while let Some((item, data)) = blocks.next() {
            let found = match (item.data, data) {
                (Some(size), Some(data)) => self.find(item.space, item.block, size, data)?,
                _ => Found::At(Place::Zero),
            };
            run.push((item, found));
            let leaf = |item: &Item| (item.space, tree::locate(u64::from(item.block)).0);
            if blocks.peek().is_none_or(|(next, _)| leaf(next) != leaf(&item)) {
                self.choose_places(&mut run, placed)?;
            }
        }
        Ok(())
    }

    /// Finds where the content of a block is.
    fn find<'a>(
        &mut self,
        space: u32,
        block: u32,
        size: BlockSize,
        data: &'a [u8],
    ) -> Result<Found<'a>, StoreError> {
        let hash = BlockHash::of(data);
        let likeness = self.compare(space, block, &hash);
        if likeness == Likeness::Same {
            return Ok(Found::At(Place::Parent));
        }
        let looked = self.work.seen.forgotten();
        if let Some((group, slot)) = self.work.seen.get(&hash) {
            return Ok(Found::At(Place::Group(group, slot)));
        }
        let content = Content { size, data, hash, looked };
        if likeness != Likeness::Scattered
            && let Some(found) = self.work.objects.index().find_block(&hash)?
        {
            return Ok(match self.work.own_place(&found) {
                Some((group, slot)) => Found::At(Place::Group(group, slot)),
                None => Found::Elsewhere(found.group.entry.hash, found.slot, content),
            });
        }
        Ok(Found::Nowhere(content, likeness == Likeness::Different))
    }

    /// Chooses the places of blocks that came together and are of one leaf, and stores what is to be stored.
    fn choose_places(
        &mut self,
        run: &mut Vec<(Item, Found<'_>)>,
        placed: &mut Vec<PlacedBlock>,
    ) -> Result<(), StoreError> {
        let given_up = scattered(run);
        for (Item { space, block, .. }, found) in run.drain(..) {
            let place = match found {
                Found::At(place) => place,
                Found::Elsewhere(group, _, content) if given_up.contains(&group) => {
                    self.store(&content, false)?
                }
                Found::Elsewhere(group, slot, _) => {
                    Place::Group(self.work.groups.known(group).ok_or_else(too_many)?, slot)
                }
                Found::Nowhere(content, is_new) => self.store(&content, is_new)?,
            };
            placed.push(PlacedBlock { space, block, place });
        }
        Ok(())
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
    fn store(&mut self, content: &Content<'_>, is_new: bool) -> Result<Place, StoreError> {
        let Content { size, data, hash, .. } = *content;
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
        if let Some((group, slot)) = self.work.claim(content, (number, slot))? {
            return Ok(Place::Group(group, slot));
        }
        group.data.extend_from_slice(data);
        group.hashes.push(hash);
        group.new_slots |= u16::from(is_new) << slot;
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
        self.work.groups.seal(SealedGroup { number, hash, new_slots: group.new_slots, pack });
        group.data.clear();
        group.hashes.clear();
        group.new_slots = 0;
        Ok(())
    }
}

/// Returns the groups of the store that are not worth referring to for so few of these blocks.
fn scattered(run: &[(Item, Found<'_>)]) -> BTreeSet<ObjectHash> {
    let mut used: BTreeMap<ObjectHash, usize> = BTreeMap::new();
    // All blocks of a space have one size.
    let mut per_group = 1;
    for (_, found) in run {
        if let Found::Elsewhere(group, _, content) = found {
            *used.entry(*group).or_default() += 1;
            per_group = usize::from(content.size.group_blocks());
        }
    }
    let (groups, used): (Vec<_>, Vec<_>) = used.into_iter().unzip();
    let given_up = given_up_in_run(&used, per_group);
    groups.into_iter().zip(given_up).filter_map(|(group, is_given_up)| is_given_up.then_some(group)).collect()
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
