//! Trees of images: from a space's root to its leaves, and back.
//!
//! The leaves of a space are kept as one sorted list, 40 bytes for each 4 MiB of memory that is not all zero: small
//! enough to be held whole, and all that is needed to find a block in one step. The nodes between are read once, and
//! built again when an image is finished; those that did not change have the hash they had, and are not stored again.

use crate::entry::ObjectKind;
use crate::error::{Part, StoreError};
use crate::format::image::SpaceEntry;
use crate::format::node::{self, Interior, LEAF_BLOCKS, Leaf};
use crate::format::{Flaw, checked_node};
use crate::hash::ObjectHash;
use crate::id::ImageId;
use crate::objects::Objects;

/// A leaf that is not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafRef {
    /// Which leaf of the space it is, counted from 0.
    pub(crate) number: u64,
    pub(crate) hash: ObjectHash,
}

/// Returns the leaf that covers a block, and the block's position in it.
pub(crate) fn locate(block: u64) -> (u64, u16) {
    // Below 1024.
    (block / LEAF_BLOCKS, u16::try_from(block % LEAF_BLOCKS).unwrap_or(0))
}

/// Lists the leaves of a space of `image`, ascending.
pub(crate) fn leaves(
    objects: &Objects,
    image: &ImageId,
    space: &SpaceEntry,
) -> Result<Vec<LeafRef>, StoreError> {
    let Some(root) = space.root else { return Ok(Vec::new()) };
    let mut level = vec![LeafRef { number: 0, hash: root }];
    for height in (1..=node::root_height(space.blocks())).rev() {
        let mut below = Vec::new();
        for parent in &level {
            let bytes = objects.read(&parent.hash, ObjectKind::Node)?;
            let interior =
                Interior::decode(&bytes).map_err(|flaw| checked_node(flaw, image, &parent.hash))?;
            if interior.height != height {
                let place = format!("node {} has height {}, not {height}", parent.hash, interior.height);
                return Err(Flaw::new(Part::Node, place).of(image));
            }
            below.extend(interior.children.iter().map(|(position, hash)| LeafRef {
                number: parent.number * node::FANOUT as u64 + u64::from(*position),
                hash: *hash,
            }));
        }
        level = below;
    }
    if level.last().is_some_and(|last| last.number >= space.blocks().div_ceil(LEAF_BLOCKS)) {
        let place = format!("the tree of space {:?} reaches beyond its end", space.name);
        return Err(Flaw::new(Part::Node, place).of(image));
    }
    Ok(level)
}

/// Reads a leaf of a space of `image`.
pub(crate) fn leaf(
    objects: &Objects,
    image: &ImageId,
    space: &SpaceEntry,
    found: &LeafRef,
) -> Result<Leaf, StoreError> {
    let bytes = objects.read(&found.hash, ObjectKind::Node)?;
    let leaf = Leaf::decode(&bytes).map_err(|flaw| checked_node(flaw, image, &found.hash))?;
    let end = leaf.runs.last().map_or(0, |run| u64::from(run.first) + u64::from(run.count));
    if leaf.block_size != space.block_size || found.number * LEAF_BLOCKS + end > space.blocks() {
        let place = format!("leaf {} does not fit space {:?}", found.hash, space.name);
        return Err(Flaw::new(Part::Node, place).of(image));
    }
    Ok(leaf)
}

/// Builds the nodes above `leaves` (ascending) of a space of `blocks` and returns the root; none when there is no leaf.
///
/// `store` gets the bytes of each node, and returns their hash.
pub(crate) fn build(
    leaves: &[LeafRef],
    blocks: u64,
    mut store: impl FnMut(&[u8]) -> Result<ObjectHash, StoreError>,
) -> Result<Option<ObjectHash>, StoreError> {
    let mut level = leaves.to_vec();
    for height in 1..=node::root_height(blocks) {
        let mut above: Vec<LeafRef> = Vec::new();
        for siblings in level.chunk_by(|one, next| parent_of(one) == parent_of(next)) {
            let Some(number) = siblings.first().map(parent_of) else { continue };
            let children = siblings.iter().map(|child| (position_of(child), child.hash)).collect();
            above.push(LeafRef { number, hash: store(&Interior { height, children }.encode())? });
        }
        level = above;
    }
    Ok(level.first().map(|root| root.hash))
}

fn parent_of(node: &LeafRef) -> u64 {
    node.number / node::FANOUT as u64
}

fn position_of(node: &LeafRef) -> u8 {
    let [position, ..] = node.number.to_le_bytes();
    position
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn leaf_ref(number: u64) -> LeafRef {
        LeafRef { number, hash: ObjectHash::of(&number.to_le_bytes()) }
    }

    // Heights are easy to get wrong by one: every leaf must be found again below the root, at its place.
    #[test]
    fn every_leaf_is_below_the_root_at_its_place() {
        let numbers: [&[u64]; 5] =
            [&[], &[0], &[0, 1, 255], &[255, 256, 65535], &[0, 255, 256, 511, 65536, (1 << 21) - 1]];
        for numbers in numbers {
            let blocks = numbers.last().map_or(1, |last| (last + 1) * LEAF_BLOCKS);
            let leaves: Vec<_> = numbers.iter().map(|number| leaf_ref(*number)).collect();
            let mut stored = HashMap::new();
            let root = build(&leaves, blocks, |bytes| {
                let hash = ObjectHash::of(bytes);
                stored.insert(hash, bytes.to_vec());
                Ok(hash)
            })
            .expect("nothing fails");
            let mut found = Vec::new();
            let mut open: Vec<_> = root.map(|root| (0, root)).into_iter().collect();
            while let Some((number, hash)) = open.pop() {
                match stored.get(&hash) {
                    None => found.push(LeafRef { number, hash }),
                    Some(bytes) => {
                        let node = Interior::decode(bytes).expect("a node");
                        open.extend(
                            node.children.iter().map(|(at, hash)| (number * 256 + u64::from(*at), *hash)),
                        );
                    }
                }
            }
            found.sort_by_key(|leaf| leaf.number);
            assert_eq!(found, leaves);
        }
    }

    // Structural sharing: what did not change is the same object.
    #[test]
    fn unchanged_subtrees_keep_their_hashes() {
        let nodes = |changed: u64| {
            let mut leaves: Vec<_> = (0..1024).map(leaf_ref).collect();
            leaves[7] = LeafRef { number: 7, ..leaf_ref(changed) };
            let mut hashes = Vec::new();
            build(&leaves, 1024 * LEAF_BLOCKS, |bytes| {
                hashes.push(ObjectHash::of(bytes));
                Ok(ObjectHash::of(bytes))
            })
            .expect("nothing fails");
            hashes
        };
        let (before, after) = (nodes(7), nodes(9999));
        let differing = before.iter().zip(&after).filter(|(one, other)| one != other).count();
        assert_eq!((before.len(), differing), (5, 2), "one of four parents of leaves, and the root");
    }
}
