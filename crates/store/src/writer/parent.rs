//! What a writer knows of the image before: which content each block had, and which of its groups are worth keeping.
//!
//! A block that did not change refers to where the parent has it. Over generations the blocks of a leaf would so end in
//! ever more groups, of which each holds fewer blocks that are still used: see [`super::scatter`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::scatter::given_up_in_leaf;
use crate::error::StoreError;
use crate::format::image::SpaceEntry;
use crate::format::node::{LEAF_BLOCKS, Leaf};
use crate::hash::{BlockHash, ObjectHash};
use crate::id::ImageId;
use crate::objects::Objects;
use crate::tree::{self, LeafRef};

/// Leaves that are kept for the workers; about 40 KiB each.
const KEPT_LEAVES: usize = 64;

/// How a block compares with the parent's at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    /// It is the same: the parent's place will do.
    Same,
    /// It is the same, but in a group that is given up: it is to be stored anew.
    Scattered,
    /// It is another, or was zero.
    Different,
}

/// A space of the parent image.
pub(super) struct ParentSpace {
    objects: Arc<Objects>,
    image: ImageId,
    entry: SpaceEntry,
    leaves: Vec<LeafRef>,
    /// Used last first.
    kept: Mutex<VecDeque<(u64, Arc<ParentLeaf>)>>,
}

/// What the blocks of one leaf of the parent are.
pub(super) struct ParentLeaf {
    /// By position in the leaf; none is zero.
    blocks: Vec<Option<(BlockHash, bool)>>,
}

impl ParentLeaf {
    /// Compares a block, by its position in the leaf.
    pub(super) fn compare(&self, position: u16, hash: &BlockHash) -> Likeness {
        match self.blocks.get(usize::from(position)) {
            Some(Some((parent, is_scattered))) if parent == hash => match is_scattered {
                true => Likeness::Scattered,
                false => Likeness::Same,
            },
            _ => Likeness::Different,
        }
    }

    fn load(space: &ParentSpace, found: &LeafRef) -> Result<ParentLeaf, StoreError> {
        let leaf = space.read_leaf(found)?;
        let given_up = scattered_groups(&leaf);
        let mut hashes: Vec<Arc<[BlockHash]>> = Vec::with_capacity(leaf.groups.len());
        for group in &leaf.groups {
            hashes.push(space.objects.block_hashes(group)?);
        }
        let mut blocks = vec![None; 1 << LEAF_BLOCKS.trailing_zeros()];
        for (block, group, slot) in leaf.blocks() {
            let hash = hashes.get(group).and_then(|hashes| hashes.get(usize::from(slot)));
            blocks[usize::from(block)] = hash.map(|hash| (*hash, given_up[group]));
        }
        Ok(ParentLeaf { blocks })
    }
}

impl ParentSpace {
    /// Reads the list of the space's leaves.
    pub(super) fn load(
        objects: Arc<Objects>,
        image: ImageId,
        entry: SpaceEntry,
    ) -> Result<ParentSpace, StoreError> {
        let leaves = tree::leaves(&objects, &image, &entry)?;
        Ok(ParentSpace { objects, image, entry, leaves, kept: Mutex::default() })
    }

    /// Returns the leaf of that number; none where it is all zero, or cannot be read: then nothing is like it.
    pub(super) fn leaf(&self, number: u64) -> Option<Arc<ParentLeaf>> {
        let found = self.find(number)?;
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = kept.iter().position(|(kept, _)| *kept == number) {
                let entry = kept.remove(at)?;
                let leaf = Arc::clone(&entry.1);
                kept.push_front(entry);
                return Some(leaf);
            }
        }
        // Read without the lock; another worker may read the same, which harms nobody. A parent that is damaged does not
        // keep a capture from being whole.
        let leaf = ParentLeaf::load(self, found).unwrap_or_else(|_| ParentLeaf { blocks: Vec::new() });
        let leaf = Arc::new(leaf);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((number, Arc::clone(&leaf)));
        kept.truncate(KEPT_LEAVES);
        Some(leaf)
    }

    /// Returns the name of a leaf that is not all zero.
    pub(super) fn leaf_hash(&self, number: u64) -> Option<ObjectHash> {
        self.find(number).map(|found| found.hash)
    }

    /// Reads the places of a leaf's blocks.
    pub(super) fn read(&self, number: u64) -> Result<Option<Leaf>, StoreError> {
        self.find(number).map(|found| self.read_leaf(found)).transpose()
    }

    fn read_leaf(&self, found: &LeafRef) -> Result<Leaf, StoreError> {
        tree::leaf(&self.objects, &self.image, &self.entry, found)
    }

    fn find(&self, number: u64) -> Option<&LeafRef> {
        let at = self.leaves.binary_search_by_key(&number, |leaf| leaf.number).ok()?;
        self.leaves.get(at)
    }
}

/// Says for each group of a leaf whether its blocks are to be stored anew.
fn scattered_groups(leaf: &Leaf) -> Vec<bool> {
    let mut used = vec![0_usize; leaf.groups.len()];
    for (_, group, _) in leaf.blocks() {
        used[group] += 1;
    }
    given_up_in_leaf(&used, usize::from(leaf.block_size.group_blocks()))
}
