//! Where each block of a space is, while an image is written.
//!
//! 5 bytes for each block, in regions of a leaf that are made when their first block comes: a space that is mostly zero
//! costs little.

use crate::format::node::LEAF_BLOCKS;

/// Blocks of one region: those of a leaf.
const REGION_BLOCKS: usize = 1 << LEAF_BLOCKS.trailing_zeros();

/// Codes below this are not groups.
const FIRST_GROUP: u32 = 2;
const ZERO: u32 = 0;
const PARENT: u32 = 1;

/// Most groups that one image can refer to.
pub(super) const MAX_GROUPS: u32 = u32::MAX - FIRST_GROUP;

/// Where the content of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it is zero.
    Zero,
    /// Where the parent image has the block at the same place.
    Parent,
    /// In a group of [`super::groups::Groups`], by its number, and a slot of it.
    Group(u32, u8),
}

/// The blocks of one leaf.
pub(super) struct Region {
    codes: [u32; REGION_BLOCKS],
    slots: [u8; REGION_BLOCKS],
}

impl Region {
    /// Returns each block that is not zero with its place, ascending.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u16, Place)> {
        (0_u16..).zip(self.codes.iter().zip(&self.slots)).filter_map(|(block, (&code, &slot))| match code {
            ZERO => None,
            PARENT => Some((block, Place::Parent)),
            code => Some((block, Place::Group(code - FIRST_GROUP, slot))),
        })
    }
}

/// The blocks of one space; all are zero at first.
#[derive(Default)]
pub(super) struct PageMap {
    regions: Vec<Option<Box<Region>>>,
}

impl PageMap {
    /// Says where a block is.
    pub(super) fn set(&mut self, block: u32, place: Place) {
        let block = block as usize;
        let (region, position) = (block / REGION_BLOCKS, block % REGION_BLOCKS);
        let (code, slot) = match place {
            Place::Zero => (ZERO, 0),
            Place::Parent => (PARENT, 0),
            Place::Group(group, slot) => (group + FIRST_GROUP, slot),
        };
        if region >= self.regions.len() {
            if code == ZERO {
                return;
            }
            self.regions.resize_with(region + 1, || None);
        }
        let region = &mut self.regions[region];
        if region.is_none() && code == ZERO {
            return;
        }
        let region = region.get_or_insert_with(|| {
            Box::new(Region { codes: [ZERO; REGION_BLOCKS], slots: [0; REGION_BLOCKS] })
        });
        region.codes[position] = code;
        region.slots[position] = slot;
    }

    /// Returns the regions that have been written to, with the number of their leaf, ascending.
    pub(super) fn regions(&self) -> impl Iterator<Item = (u64, &Region)> {
        (0..).zip(&self.regions).filter_map(|(leaf, region)| Some((leaf, region.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What was set last counts, also across regions; a zero block costs no region.
    #[test]
    fn the_last_place_counts() {
        let mut map = PageMap::default();
        map.set(5000, Place::Zero);
        assert_eq!(map.regions().count(), 0);
        map.set(1023, Place::Group(0, 7));
        map.set(1024, Place::Parent);
        map.set(3, Place::Group(MAX_GROUPS - 1, 255));
        map.set(1023, Place::Group(9, 1));
        map.set(1025, Place::Parent);
        map.set(1025, Place::Zero);
        let found: Vec<_> =
            map.regions().map(|(leaf, region)| (leaf, region.blocks().collect::<Vec<_>>())).collect();
        assert_eq!(
            found,
            [
                (0, vec![(3, Place::Group(MAX_GROUPS - 1, 255)), (1023, Place::Group(9, 1))]),
                (1, vec![(0, Place::Parent)]),
            ]
        );
    }
}
