//! The end of an image: page maps become trees, trees become objects.

use std::collections::HashSet;

use super::groups::Group;
use super::page_map::{PageMap, Place, Region};
use super::parent::ParentSpace;
use super::worker::Work;
use crate::block::BlockSize;
use crate::entry::{Encoding, ObjectKind};
use crate::error::StoreError;
use crate::format::image::SpaceEntry;
use crate::format::node::Leaf;
use crate::hash::ObjectHash;
use crate::objects::Objects;
use crate::pack::{Encoder, NewObject};
use crate::tree::{self, LeafRef};

use super::SpaceInfo;

/// Stores objects that are no groups, each once.
pub(super) struct ObjectSink {
    encoder: Encoder,
    stored: HashSet<ObjectHash>,
}

impl ObjectSink {
    pub(super) fn new() -> ObjectSink {
        ObjectSink { encoder: Encoder::new(), stored: HashSet::new() }
    }

    /// Stores an object, unless the store has it, and returns its hash.
    pub(super) fn store(
        &mut self,
        work: &Work,
        kind: ObjectKind,
        raw: &[u8],
    ) -> Result<ObjectHash, StoreError> {
        let hash = ObjectHash::of(raw);
        if self.stored.contains(&hash) || is_stored(&work.objects, &hash, kind)? {
            return Ok(hash);
        }
        let (encoding, payload) = self.encoder.encode(Encoding::Zstd, raw);
        // Nodes and blobs have at most 1 MiB.
        let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        work.packs.append(NewObject { hash, kind, encoding, raw_len, payload, blocks: None })?;
        self.stored.insert(hash);
        Ok(hash)
    }
}

fn is_stored(objects: &Objects, hash: &ObjectHash, kind: ObjectKind) -> Result<bool, StoreError> {
    Ok(objects.index().find_object(hash, kind)?.is_some())
}

/// What the trees of an image came to.
#[derive(Debug)]
pub(super) struct Trees {
    pub(super) spaces: Vec<SpaceEntry>,
    /// Bytes of blocks that were in no image before.
    pub(super) new_bytes: u64,
}

/// Stores the trees of all spaces; all workers have ended.
pub(super) fn trees(work: &Work, sink: &mut ObjectSink, infos: &[SpaceInfo]) -> Result<Trees, StoreError> {
    let maps = work.reorder.take_maps();
    let mut builder =
        Builder { work, sink, groups: work.groups.give_away(), fresh: Vec::new(), new_bytes: 0 };
    builder.fresh = builder.groups.iter().map(|group| group.new_slots).collect();
    let mut spaces = Vec::with_capacity(infos.len());
    for (at, info) in (0_u32..).zip(infos) {
        spaces.push(builder.space(at, info, maps.get(at as usize))?);
    }
    Ok(Trees { spaces, new_bytes: builder.new_bytes })
}

struct Builder<'a> {
    work: &'a Work,
    sink: &'a mut ObjectSink,
    groups: Vec<Group>,
    /// For each group the slots with new blocks that no leaf has used so far.
    fresh: Vec<u16>,
    new_bytes: u64,
}

impl Builder<'_> {
    fn space(&mut self, at: u32, info: &SpaceInfo, map: Option<&PageMap>) -> Result<SpaceEntry, StoreError> {
        let parent = self.work.parent(at);
        let mut leaves = Vec::new();
        let mut data_blocks = 0;
        for (number, region) in map.into_iter().flat_map(PageMap::regions) {
            let Some((hash, blocks)) = self.leaf(info.block_size, parent.as_deref(), number, region)? else {
                continue;
            };
            leaves.push(LeafRef { number, hash });
            data_blocks += blocks;
        }
        let SpaceInfo { name, block_size, len } = info.clone();
        let mut entry = SpaceEntry { name, block_size, len, data_blocks, root: None };
        entry.root = tree::build(&leaves, entry.blocks(), |bytes| {
            self.sink.store(self.work, ObjectKind::Node, bytes)
        })?;
        Ok(entry)
    }

    /// Stores a leaf and returns its hash and number of blocks; none where all blocks are zero.
    fn leaf(
        &mut self,
        block_size: BlockSize,
        parent: Option<&ParentSpace>,
        number: u64,
        region: &Region,
    ) -> Result<Option<(ObjectHash, u64)>, StoreError> {
        let (mut total, mut unchanged) = (0_u64, 0_u64);
        for (_, place) in region.blocks() {
            total += 1;
            unchanged += u64::from(place == Place::Parent);
        }
        if total == 0 {
            return Ok(None);
        }
        let before = match parent {
            Some(parent) if unchanged > 0 => parent.read(number)?,
            _ => None,
        };
        // A block is unchanged only where the parent has one: so when all are, and the parent has no more, nothing differs.
        if let (Some(before), Some(parent)) = (&before, parent)
            && unchanged == total
            && before.data_blocks() == total
            && let Some(hash) = parent.leaf_hash(number)
        {
            return Ok(Some((hash, total)));
        }
        let mut blocks = Vec::with_capacity(1 << 10);
        for (block, place) in region.blocks() {
            let (group, slot) = self.resolve(block_size, before.as_ref(), block, place)?;
            blocks.push((block, group, slot));
        }
        let leaf = Leaf::from_blocks(block_size, blocks);
        let hash = self.sink.store(self.work, ObjectKind::Node, &leaf.encode())?;
        Ok(Some((hash, total)))
    }

    /// Returns the group and slot of a block.
    fn resolve(
        &mut self,
        block_size: BlockSize,
        before: Option<&Leaf>,
        block: u16,
        place: Place,
    ) -> Result<(ObjectHash, u8), StoreError> {
        let found = match place {
            Place::Zero => None,
            Place::Parent => before.and_then(|leaf| {
                let (group, slot) = leaf.lookup(block)?;
                Some((*leaf.groups.get(group)?, slot))
            }),
            Place::Group(group, slot) => {
                let fresh = &mut self.fresh[group as usize];
                let bit = 1_u16.checked_shl(u32::from(slot)).unwrap_or(0);
                if *fresh & bit != 0 {
                    *fresh &= !bit;
                    self.new_bytes += block_size.bytes_u64();
                }
                self.groups[group as usize].hash.map(|hash| (hash, slot))
            }
        };
        // Not reached: every block was placed, and every group is sealed by now.
        found.ok_or(StoreError::Latched)
    }
}
