//! Writes one image.
//!
//! ```text
//!   open ──put_*, attach──▶ open ──finish──▶ trees, packs synced, image file synced and renamed ──▶ in the store
//!     │                       │
//!     └── a write fails ──────┴── dropped ──▶ part files removed
//!
//!   put_* ──batches──▶ Intake ──▶ workers: hash, look up, group, compress, append ──▶ Packs ──▶ sealing thread
//!                                    └──▶ Reorder ──▶ page maps
//! ```
//!
//! The caller's thread only copies blocks into batches. Errors of the other threads come out of the next call.

mod batch;
mod complete;
mod ending;
mod groups;
mod intake;
mod packs;
mod page_map;
mod parent;
mod publish;
mod reorder;
mod scatter;
#[cfg(test)]
mod schedules;
mod seen;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use batch::Batch;
use complete::ObjectSink;
use groups::Groups;
use intake::{Bounds, Intake};
use packs::Packs;
use parent::ParentSpace;
use publish::{Indexer, PartFile};
use reorder::Reorder;
use seen::Seen;
use worker::{Work, Worker};

use crate::block::{BlockSize, Page, SpaceIndex};
use crate::entry::ObjectKind;
use crate::error::StoreError;
use crate::format::MAX_ATTACHMENT_BYTES;
use crate::format::image::{
    AttachmentEntry, MAX_ATTACHMENTS, MAX_NAME_LEN, MAX_SPACES, PIECE_BYTES, is_space_len,
};
use crate::id::ImageId;
use crate::objects::Objects;
use crate::ordered;
use crate::reader::ImageReader;
use crate::shared::{Latch, part_name};
use crate::storage::StorageFile;
use crate::sync;

/// Default of [`WriteOptions::queue_bytes`].
const DEFAULT_QUEUE_BYTES: usize = 64 << 20;
/// Default of [`WriteOptions::spill_bytes`].
const DEFAULT_SPILL_BYTES: u64 = 8 << 30;

/// As long as the largest block.
static ZERO: [u8; BlockSize::Block64K.bytes()] = [0; BlockSize::Block64K.bytes()];

/// An image that is being written; see [`Store::create_image`](crate::Store::create_image).
///
/// Nothing is in the store before [`ImageWriter::finish`] returns; a writer that is dropped leaves nothing, but for packs of
/// an image of many GiB, which `gc` removes. Memory: the queue's bound, 9 to 13 bytes for each page of a region that has
/// data, and some 240 MiB at most for what is being looked up, compressed and written; `docs/store-format.md` has the list.
pub struct ImageWriter {
    id: ImageId,
    parent: Option<ImageId>,
    /// The parent, where it is in the store and readable: held, so that it stays.
    before: Option<ImageReader>,
    latch: Arc<Latch>,
    spaces: Vec<SpaceInfo>,
    space_names: BTreeSet<String>,
    attachments: Vec<AttachmentEntry>,
    attachment_names: BTreeSet<String>,
    sink: ObjectSink,
    batch: Batch,
    work: Arc<Work>,
    /// Empty once the workers have ended.
    threads: Vec<JoinHandle<()>>,
    is_ended: bool,
    part: PartFile,
    /// Keeps `gc` from removing what is being referred to.
    _hold: Box<dyn StorageFile>,
}

/// A space as it was added.
#[derive(Debug, Clone)]
struct SpaceInfo {
    name: String,
    block_size: BlockSize,
    len: u64,
}

impl SpaceInfo {
    fn blocks(&self) -> u64 {
        self.len.div_ceil(self.block_size.bytes_u64())
    }
}

/// How an image is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Image that this one was made after, where unchanged blocks are looked for first.
    ///
    /// It is recorded. One that is not in the store, or cannot be read, is done without.
    pub parent: Option<ImageId>,
    /// Bytes of blocks that may wait in memory.
    pub queue_bytes: usize,
    /// Bytes of blocks that may wait in a file beyond that; at most a quarter of the free space is used.
    pub spill_bytes: u64,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { parent: None, queue_bytes: DEFAULT_QUEUE_BYTES, spill_bytes: DEFAULT_SPILL_BYTES }
    }
}

/// Sizes that tests make small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Blocks that are remembered before those of complete packs go to the index: about 40 MiB of memory.
    pub(crate) max_seen: usize,
    /// Payload of a pack; [`crate::pack::PackWriter`] has its own limit too.
    pub(crate) pack_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_seen: 900_000, pack_bytes: u64::MAX }
    }
}

/// What [`crate::Store::create_image`] has ready for a writer.
pub(crate) struct Begin {
    pub(crate) latch: Arc<Latch>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) id: ImageId,
    pub(crate) options: WriteOptions,
    pub(crate) before: Option<ImageReader>,
    pub(crate) file: Box<dyn StorageFile>,
    pub(crate) hold: Box<dyn StorageFile>,
    pub(crate) limits: Limits,
}

impl ImageWriter {
    /// Starts the threads.
    pub(crate) fn begin(begin: Begin) -> Result<ImageWriter, StoreError> {
        let Begin { latch, objects, id, options, before, file, hold, limits } = begin;
        let part = PartFile::new(Arc::clone(&latch), part_name(&id), file);
        let (groups, seen) = (Arc::new(Groups::default()), Arc::new(Seen::new()));
        let indexer = Indexer {
            latch: Arc::clone(&latch),
            objects: Arc::clone(&objects),
            groups: Arc::clone(&groups),
            seen: Arc::clone(&seen),
            max_seen: limits.max_seen,
        };
        let packs = Packs::begin(Arc::clone(&latch), id.to_string(), limits.pack_bytes, move |packs| {
            indexer.sealed(packs)
        })?;
        let bounds = Bounds { memory_bytes: options.queue_bytes, spill_bytes: options.spill_bytes };
        let work = Arc::new(Work {
            objects,
            intake: Intake::new(bounds, Arc::clone(latch.storage()), format!("{id}.spill.part")),
            reorder: Reorder::default(),
            groups,
            seen,
            packs,
            parents: RwLock::default(),
            failure: Mutex::default(),
        });
        let mut writer = ImageWriter {
            id,
            parent: options.parent,
            before,
            latch,
            spaces: Vec::new(),
            space_names: BTreeSet::new(),
            attachments: Vec::new(),
            attachment_names: BTreeSet::new(),
            sink: ObjectSink::new(),
            batch: Batch::new(),
            work,
            threads: Vec::new(),
            is_ended: false,
            part,
            _hold: hold,
        };
        writer.start_workers()?;
        Ok(writer)
    }

    fn start_workers(&mut self) -> Result<(), StoreError> {
        for _ in 0..ordered::threads() {
            let worker = Worker::new(Arc::clone(&self.work));
            let thread = std::thread::Builder::new()
                .name("image-worker".to_owned())
                .spawn(move || worker.run())
                .map_err(|source| StoreError::Io {
                    op: "start a thread for",
                    path: self.part.name().to_owned(),
                    source,
                })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// Returns the id that the image will have.
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    /// Adds a space of `len` bytes; its blocks are zero until they are put.
    ///
    /// The length is a multiple of 4096 for [`BlockSize::Page4K`], and of 512 for [`BlockSize::Block64K`].
    pub fn add_space(
        &mut self,
        name: &str,
        len: u64,
        block_size: BlockSize,
    ) -> Result<SpaceIndex, StoreError> {
        if !is_space_len(block_size, len) {
            return Err(self.invalid(format!("space {name:?} cannot have a length of {len} bytes")));
        }
        check_name(&self.id, name, &self.space_names, MAX_SPACES as usize)?;
        self.check_open()?;
        // The limit of 4096 spaces was just checked.
        let index = SpaceIndex(u32::try_from(self.spaces.len()).unwrap_or(u32::MAX));
        let parent = self.parent_space(name, block_size).map(Arc::new);
        self.work.parents.write().unwrap_or_else(PoisonError::into_inner).push(parent);
        self.space_names.insert(name.to_owned());
        self.spaces.push(SpaceInfo { name: name.to_owned(), block_size, len });
        Ok(index)
    }

    /// Puts the content of a page of a space of 4096-byte blocks, in place of what was put there before.
    ///
    /// A page of zero bytes is stored as zero. Waits only while the queue is full.
    pub fn put_page(&mut self, space: SpaceIndex, page: u64, data: &Page) -> Result<(), StoreError> {
        self.put_block(space, page, data)
    }

    /// Puts the content of a block of any space, in place of what was put there before.
    ///
    /// The last block of a space may be as short as the space is; the rest of it is zero.
    pub fn put_block(&mut self, space: SpaceIndex, block: u64, data: &[u8]) -> Result<(), StoreError> {
        let (number, size) = self.locate(space, block)?;
        self.check_open()?;
        let len = self.spaces[space.position()].len - block * size.bytes_u64();
        if data.len() != size.bytes() && data.len() as u64 != len {
            return Err(self.invalid(format!("{} bytes for block {block}", data.len())));
        }
        if data == &ZERO[..data.len()] {
            self.batch.push_zero(space.0, number);
        } else if data.len() == size.bytes() {
            self.batch.push_data(space.0, number, size, data);
        } else {
            let mut padded = data.to_vec();
            padded.resize(size.bytes(), 0);
            self.batch.push_data(space.0, number, size, &padded);
        }
        self.flush_if_full()
    }

    /// Makes a block zero, whatever was put there before.
    pub fn put_zero(&mut self, space: SpaceIndex, block: u64) -> Result<(), StoreError> {
        let (number, _) = self.locate(space, block)?;
        self.check_open()?;
        self.batch.push_zero(space.0, number);
        self.flush_if_full()
    }

    /// Adds an attachment of at most 1 GiB under a name that no other has.
    pub fn attach(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let len = bytes.len() as u64;
        if len > MAX_ATTACHMENT_BYTES {
            return Err(self.invalid(format!("attachment {name:?} is too large: {len} bytes")));
        }
        check_name(&self.id, name, &self.attachment_names, MAX_ATTACHMENTS as usize)?;
        self.check_open()?;
        let mut pieces = Vec::with_capacity(bytes.len().div_ceil(PIECE_BYTES));
        for piece in bytes.chunks(PIECE_BYTES) {
            match self.sink.store(&self.work, ObjectKind::Blob, piece) {
                Ok(hash) => pieces.push(hash),
                Err(error) => return Err(self.end_with(error)),
            }
        }
        let hash = *blake3::hash(bytes).as_bytes();
        self.attachments.push(AttachmentEntry { name: name.to_owned(), len, hash, pieces });
        self.attachment_names.insert(name.to_owned());
        Ok(())
    }

    /// Finds the space of the parent that has the same name and block size. One that cannot be read is done without.
    fn parent_space(&self, name: &str, block_size: BlockSize) -> Option<ParentSpace> {
        let before = self.before.as_ref()?;
        let entry = before.entry(name)?;
        if entry.block_size != block_size {
            return None;
        }
        ParentSpace::load(Arc::clone(&self.work.objects), before.id().clone(), entry.clone()).ok()
    }

    /// Checks that a space has a block, and returns its number and size.
    fn locate(&self, space: SpaceIndex, block: u64) -> Result<(u32, BlockSize), StoreError> {
        let Some(info) = self.spaces.get(space.position()) else {
            return Err(self.invalid(format!("no space {}", space.position())));
        };
        // A space has at most 2^31 blocks.
        match u32::try_from(block) {
            Ok(number) if block < info.blocks() => Ok((number, info.block_size)),
            _ => Err(self.invalid(format!("block {block} of a space of {} blocks", info.blocks()))),
        }
    }

    fn flush_if_full(&mut self) -> Result<(), StoreError> {
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.check_open()?;
        if self.batch.is_empty() {
            return Ok(());
        }
        match self.work.intake.push(std::mem::replace(&mut self.batch, Batch::empty())) {
            Ok(empty) => {
                self.batch = empty;
                Ok(())
            }
            Err(intake::Stopped) => Err(self.end()),
        }
    }

    /// Fails once a write has failed that closed this writer or the store.
    fn check_open(&mut self) -> Result<(), StoreError> {
        if self.is_ended || self.latch.check().is_err() { Err(self.end()) } else { Ok(()) }
    }

    fn invalid(&self, what: String) -> StoreError {
        StoreError::invalid(&self.id, what)
    }
}

impl fmt::Debug for ImageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageWriter")
            .field("id", &self.id)
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}

fn check_name(image: &ImageId, name: &str, taken: &BTreeSet<String>, max: usize) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(StoreError::invalid(
            image,
            format!("a name has 1 to {MAX_NAME_LEN} bytes, not {name:?}"),
        ));
    }
    if taken.contains(name) {
        return Err(StoreError::invalid(image, format!("the name {name:?} is taken")));
    }
    if taken.len() >= max {
        return Err(StoreError::invalid(image, format!("no more than {max} names, so not {name:?}")));
    }
    Ok(())
}
