//! What travels from the caller's thread to the workers: blocks in the order in which they were put.

use crate::block::BlockSize;

/// Data of a full batch in bytes: 64 pages.
pub(super) const BATCH_BYTES: usize = 256 << 10;
/// Most blocks in one batch, zero blocks included.
const BATCH_ITEMS: usize = 2048;

/// One block in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    /// Position of the space.
    pub(super) space: u32,
    pub(super) block: u32,
    /// Size of the content that is in the batch; none where the block is zero.
    pub(super) data: Option<BlockSize>,
}

/// Blocks in the order of arrival.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// Contents of the blocks that are not zero, in order.
    pub(super) data: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// Makes an empty batch with room for a full one.
    pub(super) fn new() -> Batch {
        Batch { items: Vec::new(), data: Vec::with_capacity(BATCH_BYTES) }
    }

    /// Makes a batch that has no room yet, to stand in for one that is given away.
    pub(super) fn empty() -> Batch {
        Batch { items: Vec::new(), data: Vec::new() }
    }

    pub(super) fn push_data(&mut self, space: u32, block: u32, size: BlockSize, data: &[u8]) {
        debug_assert_eq!(data.len(), size.bytes(), "a block is whole");
        self.items.push(Item { space, block, data: Some(size) });
        self.data.extend_from_slice(data);
    }

    pub(super) fn push_zero(&mut self, space: u32, block: u32) {
        self.items.push(Item { space, block, data: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.data.len() >= BATCH_BYTES || self.items.len() >= BATCH_ITEMS
    }

    /// Returns the memory that the batch takes in a queue.
    pub(super) fn cost(&self) -> usize {
        self.data.len() + self.items.len() * size_of::<Item>()
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.data.clear();
    }

    /// Returns each block with its content; none is zero.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (Item, Option<&[u8]>)> {
        let mut rest = self.data.as_slice();
        self.items.iter().map(move |item| {
            let data = item.data.map(|size| {
                let (data, after) = rest.split_at(size.bytes());
                rest = after;
                data
            });
            (*item, data)
        })
    }
}
