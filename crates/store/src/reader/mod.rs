//! Reads one image; every byte it hands out was checked against its hash.
//!
//! ```text
//!   image file ──▶ list of leaves (at first use) ──▶ leaf (cached) ──▶ group (cached) ──▶ block      at random
//!                        └──▶ whole leaves, over the cores, in order ──▶ runs of blocks              in bulk
//! ```
//!
//! A reader can be shared between threads. While it is open its image cannot be removed.

mod bulk;
mod data_runs;
mod flat;
mod leaf_cache;
mod verify;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use leaf_cache::LeafCache;

use crate::block::{BlockSize, PAGE_BYTES, SpaceIndex};
use crate::entry::ObjectKind;
use crate::error::{Part, StoreError};
use crate::format::Flaw;
use crate::format::image::{AttachmentEntry, ImageFile, MAX_IMAGE_FILE_BYTES, SpaceEntry};
use crate::format::node::{LEAF_BLOCKS, Leaf};
use crate::id::ImageId;
use crate::objects::Objects;
use crate::shared::{Shared, image_name};
use crate::storage::{StorageFile, lost};
use crate::tree::{self, LeafRef};

/// An open image.
pub struct ImageReader {
    objects: Arc<Objects>,
    file: ImageFile,
    spaces: Vec<Space>,
    /// The leaves of each space, once they were needed.
    leaves: Vec<OnceLock<Vec<LeafRef>>>,
    cache: LeafCache,
    /// Keeps the image from being removed.
    _hold: Box<dyn StorageFile>,
}

/// A space of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// By which it is addressed.
    pub index: SpaceIndex,
    /// Name, unique in the image.
    pub name: String,
    /// Length in bytes; of a space of 4096-byte blocks a multiple of these.
    pub len: u64,
    /// Size of its blocks.
    pub block_size: BlockSize,
}

impl Space {
    /// Returns the number of blocks; the last one can reach beyond the length.
    pub fn blocks(&self) -> u64 {
        self.len.div_ceil(self.block_size.bytes_u64())
    }

    /// Returns the length in pages of 4096 bytes.
    pub fn pages(&self) -> u64 {
        self.len.div_ceil(PAGE_BYTES)
    }
}

/// Sizes of a complete image in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The image.
    pub id: ImageId,
    /// All spaces together.
    pub bytes: u64,
    /// Blocks that are zero.
    pub zero_bytes: u64,
    /// Blocks that were not in the store before, each counted once.
    pub new_bytes: u64,
    /// What the image added to the storage: its file, and the packs that were written for it.
    pub stored_bytes: u64,
}

impl ImageReader {
    /// Reads and verifies the image's file; `hold` is the lock on it.
    pub(crate) fn load(
        shared: &Shared,
        objects: Arc<Objects>,
        id: &ImageId,
        hold: Box<dyn StorageFile>,
    ) -> Result<ImageReader, StoreError> {
        let file = read_file(shared, id, &*hold)?;
        let spaces = (0..)
            .zip(&file.spaces)
            .map(|(at, space)| Space {
                index: SpaceIndex(at),
                name: space.name.clone(),
                len: space.len,
                block_size: space.block_size,
            })
            .collect();
        let leaves = file.spaces.iter().map(|_| OnceLock::new()).collect();
        Ok(ImageReader { objects, file, spaces, leaves, cache: LeafCache::default(), _hold: hold })
    }

    /// Returns the image's id.
    pub fn id(&self) -> &ImageId {
        &self.file.id
    }

    /// Returns the image that this one was made after, which need not be in the store any more.
    pub fn parent(&self) -> Option<&ImageId> {
        self.file.parent.as_ref()
    }

    /// Returns the spaces, in the order of their creation.
    pub fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    /// Returns the names of the attachments with their lengths in bytes.
    pub fn attachments(&self) -> impl Iterator<Item = (&str, u64)> {
        self.file.attachments.iter().map(|attachment| (attachment.name.as_str(), attachment.len))
    }

    /// Returns the sizes of the image.
    pub fn summary(&self) -> ImageSummary {
        summary(&self.file)
    }

    /// Returns the bytes of blocks that are not zero, in all spaces together.
    pub fn data_bytes(&self) -> u64 {
        data_bytes(&self.file)
    }

    /// Reads an attachment.
    pub fn attachment(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let found = self.file.attachments.iter().find(|attachment| attachment.name == name);
        let attachment = found.ok_or_else(|| self.invalid(format!("no attachment {name:?}")))?;
        // At most 1 GiB.
        let mut bytes = Vec::with_capacity(usize::try_from(attachment.len).unwrap_or(0));
        let mut piece = Vec::new();
        for object in &attachment.pieces {
            self.objects.read_into(object, ObjectKind::Blob, &mut piece)?;
            bytes.extend_from_slice(&piece);
        }
        self.check_attachment(attachment, bytes.len() as u64, &blake3::hash(&bytes))?;
        Ok(bytes)
    }

    /// Reads `blocks` of a space into `buf`, which is as long as they are; zero blocks are filled in.
    ///
    /// After an error the content of `buf` is not to be used. [`ImageReader::stream`] is faster for much of a space.
    pub fn read_run(&self, space: SpaceIndex, blocks: Range<u64>, buf: &mut [u8]) -> Result<(), StoreError> {
        let size = self.space(space, &blocks)?.block_size.bytes();
        if buf.len() as u64 != (blocks.end.saturating_sub(blocks.start)).saturating_mul(size as u64) {
            return Err(self.invalid(format!("a buffer of {} bytes for blocks {blocks:?}", buf.len())));
        }
        let mut rest = buf;
        let mut next = blocks.start;
        while next < blocks.end {
            let (number, position) = tree::locate(next);
            let end = blocks.end.min((number + 1) * LEAF_BLOCKS);
            // At most 1024 blocks.
            let count = u16::try_from(end - next).unwrap_or(0);
            let (part, after) = rest.split_at_mut(usize::from(count) * size);
            rest = after;
            match self.leaf(space, number)? {
                Some(leaf) => self.read_in_leaf(&leaf, position..position + count, part)?,
                None => part.fill(0),
            }
            next = end;
        }
        Ok(())
    }

    /// Reads blocks of one leaf, by their positions in it.
    fn read_in_leaf(&self, leaf: &Leaf, blocks: Range<u16>, buf: &mut [u8]) -> Result<(), StoreError> {
        let size = leaf.block_size.bytes();
        let from = leaf.runs.partition_point(|run| run.first + run.count <= blocks.start);
        let mut done = blocks.start;
        let offset = |block: u16| usize::from(block - blocks.start) * size;
        for run in &leaf.runs[from..] {
            if run.first >= blocks.end {
                break;
            }
            let (first, end) = (run.first.max(blocks.start), (run.first + run.count).min(blocks.end));
            buf[offset(done)..offset(first)].fill(0);
            // A group has at most 255 blocks.
            let slot = run.slot.saturating_add(u8::try_from(first - run.first).unwrap_or(u8::MAX));
            self.copy_run(leaf, usize::from(run.group), slot, &mut buf[offset(first)..offset(end)])?;
            done = end;
        }
        buf[offset(done)..].fill(0);
        Ok(())
    }

    /// Copies consecutive slots of a group, as many as fill `buf`.
    fn copy_run(&self, leaf: &Leaf, group: usize, slot: u8, buf: &mut [u8]) -> Result<(), StoreError> {
        let hash = &leaf.groups[group];
        let bytes = self.objects.read(hash, ObjectKind::Group)?;
        let start = usize::from(slot) * leaf.block_size.bytes();
        match bytes.get(start..start + buf.len()) {
            Some(found) => buf.copy_from_slice(found),
            None => return Err(self.short_group(leaf, group)),
        }
        Ok(())
    }

    /// Says that a group has not the slots that a leaf refers to: one of them was not made by this program.
    fn short_group(&self, leaf: &Leaf, group: usize) -> StoreError {
        Flaw::new(Part::Node, format!("group {} has too few blocks", leaf.groups[group])).of(self.id())
    }

    /// Returns the decoded leaf of that number; none where it is all zero.
    fn leaf(&self, space: SpaceIndex, number: u64) -> Result<Option<Arc<Leaf>>, StoreError> {
        let leaves = self.leaves(space)?;
        let Ok(at) = leaves.binary_search_by_key(&number, |leaf| leaf.number) else { return Ok(None) };
        self.cache.get_or_load((space.0, number), || self.load_leaf(space, &leaves[at])).map(Some)
    }

    pub(crate) fn load_leaf(&self, space: SpaceIndex, found: &LeafRef) -> Result<Leaf, StoreError> {
        tree::leaf(&self.objects, self.id(), &self.file.spaces[space.position()], found)
    }

    /// Returns the leaves of a space that are not all zero, ascending.
    pub(crate) fn leaves(&self, space: SpaceIndex) -> Result<&[LeafRef], StoreError> {
        let slot = &self.leaves[space.position()];
        if let Some(leaves) = slot.get() {
            return Ok(leaves);
        }
        let leaves = tree::leaves(&self.objects, self.id(), &self.file.spaces[space.position()])?;
        Ok(slot.get_or_init(|| leaves))
    }

    /// Returns the space of that name as the file has it.
    pub(crate) fn entry(&self, name: &str) -> Option<&SpaceEntry> {
        self.file.spaces.iter().find(|space| space.name == name)
    }

    fn space(&self, space: SpaceIndex, blocks: &Range<u64>) -> Result<&SpaceEntry, StoreError> {
        match self.file.spaces.get(space.position()) {
            Some(entry) if blocks.start <= blocks.end && blocks.end <= entry.blocks() => Ok(entry),
            Some(entry) => {
                Err(self.invalid(format!("blocks {blocks:?} of a space of {} blocks", entry.blocks())))
            }
            None => Err(self.invalid(format!("no space {}", space.position()))),
        }
    }

    fn check_attachment(
        &self,
        attachment: &AttachmentEntry,
        len: u64,
        hash: &blake3::Hash,
    ) -> Result<(), StoreError> {
        if len == attachment.len && *hash.as_bytes() == attachment.hash {
            return Ok(());
        }
        let place = format!("attachment {:?}: its hash is wrong", attachment.name);
        Err(Flaw::new(Part::Attachment, place).of(self.id()))
    }

    fn invalid(&self, what: String) -> StoreError {
        StoreError::invalid(self.id(), what)
    }
}

impl fmt::Debug for ImageReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageReader")
            .field("id", self.id())
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}

/// Returns the sizes of an image.
pub(crate) fn summary(file: &ImageFile) -> ImageSummary {
    let bytes = file.spaces.iter().map(|space| space.len).sum::<u64>();
    ImageSummary {
        id: file.id.clone(),
        bytes,
        // The last block of a space can reach beyond its end.
        zero_bytes: bytes.saturating_sub(data_bytes(file)),
        new_bytes: file.new_bytes,
        stored_bytes: file.stored_bytes,
    }
}

fn data_bytes(file: &ImageFile) -> u64 {
    file.spaces.iter().map(|space| space.data_blocks * space.block_size.bytes_u64()).sum()
}

/// Reads and verifies an image's file.
pub(crate) fn read_file(
    shared: &Shared,
    id: &ImageId,
    file: &dyn StorageFile,
) -> Result<ImageFile, StoreError> {
    let name = image_name(id);
    let failed = |error| match lost(&error) {
        Some(why) => Flaw::new(Part::Header, why).of(id),
        None => shared.failed("read", &name, error),
    };
    let len = file.len().map_err(failed)?;
    let damaged = |what: String| Flaw::new(Part::Header, what).of(id);
    // Of a file of the first version, which held all the memory, only the beginning is looked at.
    let len = len.min(MAX_IMAGE_FILE_BYTES);
    let mut bytes = vec![0; usize::try_from(len.min(16)).unwrap_or(0)];
    read(file, &mut bytes).map_err(failed)?;
    if let Err(flaw @ (Flaw::Older(_) | Flaw::Newer(_))) = ImageFile::decode(&bytes) {
        return Err(flaw.of(id));
    }
    bytes.resize(usize::try_from(len).unwrap_or(0), 0);
    read(file, &mut bytes).map_err(failed)?;
    let found = ImageFile::decode(&bytes).map_err(|flaw| flaw.of(id))?;
    if found.id != *id {
        return Err(damaged(format!("it belongs to image {}", found.id)));
    }
    Ok(found)
}

/// Fills `bytes` from the beginning of the file, whose length was asked for: it does not change.
fn read(file: &dyn StorageFile, bytes: &mut [u8]) -> io::Result<()> {
    file.read_at(0, bytes)
}
