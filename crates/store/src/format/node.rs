//! Nodes of image trees: which group holds which block.
//!
//! A leaf covers 1024 blocks; a node of height h covers 2^(10 + 8h). What no run, or no child, covers is zero. The bytes
//! are drawn in `docs/store-format.md`. Encoding is canonical: one content has one form, and so one hash.
#![deny(clippy::indexing_slicing)]

use super::Flaw;
use super::cursor::Cursor;
use crate::block::BlockSize;
use crate::error::Part;
use crate::hash::{HASH_LEN, ObjectHash};

/// Blocks that a leaf covers.
pub(crate) const LEAF_BLOCKS: u64 = 1 << LEAF_BITS;
/// Children of an interior node at most.
pub(crate) const FANOUT: usize = 256;
/// Highest node: with 4096-byte blocks it covers more than [`super::MAX_SPACE_BYTES`].
pub(crate) const MAX_HEIGHT: u8 = 4;

const LEAF_BITS: u32 = 10;
const FANOUT_BITS: u32 = 8;
const LEAF_MAGIC: [u8; 4] = *b"VMRL";
const INTERIOR_MAGIC: [u8; 4] = *b"VMRN";
const NODE_VERSION: u8 = 1;
const NODE_HEADER_LEN: usize = 16;
const RUN_LEN: usize = 8;
const CHILD_LEN: usize = 1 + HASH_LEN;

/// Consecutive blocks of a leaf that are consecutive slots of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block, counted from the leaf's first.
    pub(crate) first: u16,
    /// Number of blocks, at least 1.
    pub(crate) count: u16,
    /// Position of the group in [`Leaf::groups`].
    pub(crate) group: u16,
    /// Slot of the first block in the group.
    pub(crate) slot: u8,
}

/// Where the blocks of [`LEAF_BLOCKS`] consecutive blocks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) block_size: BlockSize,
    /// Groups, in the order of the runs that use them first; each is used.
    pub(crate) groups: Vec<ObjectHash>,
    /// Runs that do not overlap, ascending, each as long as it can be.
    pub(crate) runs: Vec<Run>,
}

/// A node above leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interior {
    /// 1 for a parent of leaves.
    pub(crate) height: u8,
    /// Position and hash of each child that is not all zero, ascending; at least one.
    pub(crate) children: Vec<(u8, ObjectHash)>,
}

/// Returns how many blocks a node of `height` covers; leaves have height 0.
pub(crate) const fn covered_blocks(height: u8) -> u64 {
    1 << (LEAF_BITS + FANOUT_BITS * height as u32)
}

/// Returns the height of the root of a space: the smallest that covers `blocks`.
pub(crate) fn root_height(blocks: u64) -> u8 {
    (0..MAX_HEIGHT).find(|&height| blocks <= covered_blocks(height)).unwrap_or(MAX_HEIGHT)
}

impl Leaf {
    /// Returns where `block` (counted from the leaf's first) is: position in [`Leaf::groups`] and slot; none is zero.
    pub(crate) fn lookup(&self, block: u16) -> Option<(usize, u8)> {
        let after = self.runs.partition_point(|run| run.first <= block);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = block - run.first;
        if within >= run.count {
            return None;
        }
        Some((usize::from(run.group), run.slot.checked_add(u8::try_from(within).ok()?)?))
    }

    /// Returns each block that is not zero, with its group's position and slot, ascending.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u16, usize, u8)> {
        self.runs.iter().flat_map(|run| {
            let (first, group) = (run.first, usize::from(run.group));
            (run.slot..=u8::MAX).zip(0..run.count).map(move |(slot, n)| (first + n, group, slot))
        })
    }

    /// Returns the number of blocks that are not zero.
    pub(crate) fn data_blocks(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Makes the leaf of `blocks`: each block that is not zero with its group and slot, ascending.
    pub(crate) fn from_blocks(
        block_size: BlockSize,
        blocks: impl IntoIterator<Item = (u16, ObjectHash, u8)>,
    ) -> Leaf {
        let mut leaf = Leaf { block_size, groups: Vec::new(), runs: Vec::new() };
        let mut positions = std::collections::HashMap::new();
        for (block, group, slot) in blocks {
            let position = *positions.entry(group).or_insert_with(|| {
                leaf.groups.push(group);
                // At most one group for each of a leaf's 1024 blocks.
                u16::try_from(leaf.groups.len() - 1).unwrap_or(u16::MAX)
            });
            match leaf.runs.last_mut() {
                Some(run)
                    if run.group == position
                        && run.first + run.count == block
                        && u16::from(run.slot) + run.count == u16::from(slot) =>
                {
                    run.count += 1;
                }
                _ => leaf.runs.push(Run { first: block, count: 1, group: position, slot }),
            }
        }
        leaf
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = NODE_HEADER_LEN + self.groups.len() * HASH_LEN + self.runs.len() * RUN_LEN;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&LEAF_MAGIC);
        bytes.extend_from_slice(&[NODE_VERSION, self.block_size.log2()]);
        // Both are at most 1024.
        for count in [self.groups.len(), self.runs.len()] {
            bytes.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 6]);
        for group in &self.groups {
            bytes.extend_from_slice(group.as_bytes());
        }
        for run in &self.runs {
            for field in [run.first, run.count, run.group] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            bytes.extend_from_slice(&[run.slot, 0]);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Leaf, Flaw> {
        let mut cursor = header(bytes, LEAF_MAGIC, "leaf")?;
        let log2 = cursor.u8("block size")?;
        let Some(block_size) = BlockSize::from_log2(log2) else {
            return Err(cursor.flaw(format_args!("block size 2^{log2} is unknown")));
        };
        let groups = usize::from(cursor.u16("number of groups")?);
        let runs = usize::from(cursor.u16("number of runs")?);
        cursor.zero(6)?;
        if cursor.remaining() != groups * HASH_LEN + runs * RUN_LEN {
            return Err(cursor.flaw(format_args!("{groups} groups and {runs} runs don't fill the leaf")));
        }
        let groups = (0..groups)
            .map(|_| cursor.array("group").map(ObjectHash::from_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let mut found: Vec<Run> = Vec::with_capacity(runs);
        for _ in 0..runs {
            let run = decode_run(&mut cursor, groups.len())?;
            if found.last().is_some_and(|last| last.first + last.count > run.first) {
                return Err(cursor.flaw("runs overlap"));
            }
            found.push(run);
        }
        cursor.end()?;
        Ok(Leaf { block_size, groups, runs: found })
    }
}

fn decode_run(cursor: &mut Cursor<'_>, groups: usize) -> Result<Run, Flaw> {
    let run = Run {
        first: cursor.u16("first block of a run")?,
        count: cursor.u16("blocks of a run")?,
        group: cursor.u16("group of a run")?,
        slot: cursor.u8("slot of a run")?,
    };
    cursor.zero(1)?;
    let end = u64::from(run.first) + u64::from(run.count);
    if run.count == 0 || end > LEAF_BLOCKS || usize::from(run.group) >= groups {
        return Err(cursor.flaw(format_args!("impossible run {run:?}")));
    }
    // Slots are 0..=254: a group has at most 255 blocks.
    if u16::from(run.slot) + run.count > u16::from(u8::MAX) {
        return Err(cursor.flaw(format_args!("impossible slots in run {run:?}")));
    }
    Ok(run)
}

impl Interior {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(NODE_HEADER_LEN + self.children.len() * CHILD_LEN);
        bytes.extend_from_slice(&INTERIOR_MAGIC);
        bytes.extend_from_slice(&[NODE_VERSION, self.height]);
        // At most 256.
        bytes.extend_from_slice(&u16::try_from(self.children.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for (position, hash) in &self.children {
            bytes.push(*position);
            bytes.extend_from_slice(hash.as_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Interior, Flaw> {
        let mut cursor = header(bytes, INTERIOR_MAGIC, "interior node")?;
        let height = cursor.u8("height")?;
        if height == 0 || height > MAX_HEIGHT {
            return Err(cursor.flaw(format_args!("impossible height {height}")));
        }
        let count = usize::from(cursor.u16("number of children")?);
        cursor.zero(8)?;
        if count == 0 || count > FANOUT || cursor.remaining() != count * CHILD_LEN {
            return Err(cursor.flaw(format_args!("{count} children don't fill the node")));
        }
        let mut children: Vec<(u8, ObjectHash)> = Vec::with_capacity(count);
        for _ in 0..count {
            let position = cursor.u8("position of a child")?;
            if children.last().is_some_and(|(last, _)| *last >= position) {
                return Err(cursor.flaw("children are not in order"));
            }
            children.push((position, ObjectHash::from_bytes(cursor.array("child")?)));
        }
        cursor.end()?;
        Ok(Interior { height, children })
    }
}

/// Takes magic and version.
fn header<'a>(bytes: &'a [u8], magic: [u8; 4], what: &str) -> Result<Cursor<'a>, Flaw> {
    let mut cursor = Cursor::new(Part::Node, bytes);
    if cursor.array::<4>("magic")? != magic {
        return Err(cursor.flaw(format_args!("it is no {what}")));
    }
    let version = cursor.u8("version")?;
    if version != NODE_VERSION {
        return Err(Flaw::Newer(u32::from(version)));
    }
    Ok(cursor)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Blocks = BTreeMap<u16, (u8, u8)>;

    /// Blocks of a leaf, each with the tag of its group and its slot; consecutive ones are frequent.
    fn blocks() -> impl Strategy<Value = Blocks> {
        let stretch = (0..1024_u16, 1..40_u16, 0..20_u8, 0..=254_u8);
        prop::collection::vec(stretch, 0..60).prop_map(|stretches| {
            let place = |(first, count, group, slot): (u16, u16, u8, u8)| {
                (first..1024).zip(slot..=254).take(usize::from(count)).map(move |(b, s)| (b, (group, s)))
            };
            stretches.into_iter().flat_map(place).collect()
        })
    }

    fn leaf_of(blocks: &Blocks) -> Leaf {
        let named = blocks.iter().map(|(&block, &(group, slot))| (block, ObjectHash::of(&[group]), slot));
        Leaf::from_blocks(BlockSize::Page4K, named)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        // A leaf that gives another page than was put would be a guest's memory corrupted, with every hash right.
        #[test]
        fn a_leaf_finds_each_block(blocks in blocks()) {
            let leaf = leaf_of(&blocks);
            let decoded = Leaf::decode(&leaf.encode()).expect("it was encoded");
            prop_assert_eq!(&decoded, &leaf);
            for block in 0..1024 {
                let found = decoded.lookup(block).map(|(group, slot)| (decoded.groups[group], slot));
                let expected = blocks.get(&block).map(|&(group, slot)| (ObjectHash::of(&[group]), slot));
                prop_assert_eq!(found, expected, "block {}", block);
            }
            let listed: Vec<_> = decoded.blocks().map(|(b, g, s)| (b, decoded.groups[g], s)).collect();
            let expected: Vec<_> = blocks.iter().map(|(&b, &(g, s))| (b, ObjectHash::of(&[g]), s)).collect();
            prop_assert_eq!(listed, expected);
            prop_assert_eq!(decoded.data_blocks(), blocks.len() as u64);
        }

        // Decoders take bytes from a disk: whatever they are, what is accepted is canonical, and nothing panics.
        #[test]
        fn what_is_accepted_encodes_to_the_same_bytes(
            blocks in blocks(), at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = leaf_of(&blocks).encode();
            prop_assert!(Leaf::decode(&bytes[..cut.index(bytes.len())]).is_err());
            bytes.push(0);
            prop_assert!(Leaf::decode(&bytes).is_err(), "a byte too many");
            bytes.pop();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if let Ok(leaf) = Leaf::decode(&bytes) {
                prop_assert_eq!(leaf.encode(), bytes);
                prop_assert!(leaf.blocks().all(|(block, group, _)| block < 1024 && group < leaf.groups.len()));
            }
        }

        // The same for nodes above.
        #[test]
        fn an_interior_node_comes_back(children in prop::collection::btree_map(any::<u8>(), any::<u8>(), 1..257)) {
            let children: Vec<_> = children.into_iter().map(|(at, tag)| (at, ObjectHash::of(&[tag]))).collect();
            let node = Interior { height: 2, children };
            let bytes = node.encode();
            prop_assert_eq!(Interior::decode(&bytes).expect("it was encoded"), node);
            prop_assert!(Interior::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    // Two encodings of one content would be two hashes, and nothing would be shared.
    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let blocks = Blocks::from([(0, (1, 4)), (1, (1, 5)), (2, (2, 0)), (4, (1, 7)), (5, (1, 9))]);
        let leaf = leaf_of(&blocks);
        let run = |first, count, group, slot| Run { first, count, group, slot };
        assert_eq!(leaf.runs, [run(0, 2, 0, 4), run(2, 1, 1, 0), run(4, 1, 0, 7), run(5, 1, 0, 9)]);
        assert_eq!(leaf.groups, [ObjectHash::of(&[1]), ObjectHash::of(&[2])]);
    }

    // Runs that overlap, leave the leaf or the group would give one block two contents, or none.
    #[test]
    fn impossible_runs_are_refused() {
        let leaf = leaf_of(&Blocks::from([(0, (1, 4)), (9, (1, 5))]));
        let with = |change: fn(&mut Leaf)| {
            let mut leaf = leaf.clone();
            change(&mut leaf);
            Leaf::decode(&leaf.encode())
        };
        assert!(with(|_| {}).is_ok());
        for change in [
            (|leaf| leaf.runs[0].count = 10) as fn(&mut Leaf),
            |leaf| leaf.runs[0].count = 0,
            |leaf| leaf.runs[1].first = 1024,
            |leaf| leaf.runs[1].count = u16::MAX,
            |leaf| leaf.runs[1].group = 1,
            |leaf| leaf.runs[1].slot = 255,
            |leaf| leaf.runs.swap(0, 1),
            |leaf| leaf.groups.clear(),
        ] {
            assert!(with(change).is_err());
        }
    }

    // The root's height decides how every path is read: limits must fall where the coverage ends.
    #[test]
    fn heights_follow_from_the_number_of_blocks() {
        let at = [0, 1, 1024, 1025, 1 << 18, (1 << 18) + 1, 1 << 31];
        assert_eq!(at.map(root_height), [0, 0, 0, 1, 1, 2, 3]);
        assert_eq!([0, 1, 2].map(covered_blocks), [1 << 10, 1 << 18, 1 << 26]);
        assert!(covered_blocks(MAX_HEIGHT) >= crate::format::MAX_SPACE_BYTES / BlockSize::Page4K.bytes_u64());
    }
}
