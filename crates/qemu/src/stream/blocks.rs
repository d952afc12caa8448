//! The list of RAM blocks at the start of memory.
//!
//! ```text
//! be64 sum of lengths | 0x04, then until the sum is used up:
//!     u8 length | name | be64 length of the block
//!     [be64 page size]      sent if the source is prepared for postcopy and it is not that of its host
//!     [be64 guest address]  sent with capability x-ignore-shared
//! ```
//! Whether a page size is there is not written: a name is never empty and a record never has no flags, so the
//! zero bits of a page size tell it from what else could follow.
#![deny(clippy::indexing_slicing)]

use std::collections::HashMap;

use super::decoder::Limits;
use super::error::Fault;
use super::wire::{Parsed, Reader, flag};
use super::{PAGE_BYTES, RamBlock};

/// No host has larger pages.
const PAGE_SIZE_LIMIT: u64 = 1 << 40;

/// Optional fields of an entry.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields {
    /// A source prepared for postcopy: page sizes may follow.
    pub(super) page_size: bool,
    /// Capability `x-ignore-shared`: guest addresses follow.
    pub(super) guest_address: bool,
}

/// The blocks so far, and what is missing of the announced sum.
#[derive(Debug, Default)]
pub(super) struct BlockList {
    blocks: Vec<RamBlock>,
    index: HashMap<String, usize>,
    announced: bool,
    missing: u64,
}

impl BlockList {
    pub(super) fn blocks(&self) -> &[RamBlock] {
        &self.blocks
    }

    pub(super) fn into_blocks(self) -> Vec<RamBlock> {
        self.blocks
    }

    /// Whether the list has begun.
    pub(super) fn announced(&self) -> bool {
        self.announced
    }

    /// Whether the sum is used up.
    pub(super) fn complete(&self) -> bool {
        self.announced && self.missing == 0
    }

    /// Index of a block by the name in a record.
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        let name = std::str::from_utf8(name).ok()?;
        self.index.get(name).copied()
    }

    /// Begins the list.
    pub(super) fn announce(&mut self, sum: u64, limits: &Limits) -> Result<(), Fault> {
        if self.announced {
            return Err(Fault::BlockListRepeated);
        }
        if sum > limits.max_ram {
            return Err(Fault::TooMuch { field: "memory", value: sum, limit: limits.max_ram });
        }
        self.announced = true;
        self.missing = sum;
        Ok(())
    }

    /// Reads one entry; returns the bytes used.
    pub(super) fn entry(&mut self, input: &[u8], fields: Fields, limits: &Limits) -> Parsed<usize> {
        if fields.page_size && fields.guest_address {
            return Err(Fault::BlockFields.into());
        }
        let mut reader = Reader::new(input);
        let mut block = RamBlock::new(reader.short_text("name of a RAM block")?, 0);
        block.len = reader.u64()?;
        if fields.page_size && page_size_follows(&reader, block.len == self.missing)? {
            block.page_size = reader.u64()?;
        }
        if fields.guest_address {
            block.guest_address = Some(reader.u64()?);
        }
        self.push(block, limits)?;
        Ok(reader.used())
    }

    /// Adds a block after checking it.
    pub(super) fn push(&mut self, block: RamBlock, limits: &Limits) -> Result<(), Fault> {
        let RamBlock { name, len, page_size, .. } = &block;
        if name.is_empty() || name.len() > usize::from(u8::MAX) {
            return Err(Fault::BlockName);
        }
        if *len == 0 || len % PAGE_BYTES != 0 || *len > self.missing {
            return Err(Fault::BlockLength { name: name.clone(), len: *len });
        }
        if !page_size.is_power_of_two() || !(PAGE_BYTES..=PAGE_SIZE_LIMIT).contains(page_size) {
            return Err(Fault::BlockPageSize { name: name.clone(), page_size: *page_size });
        }
        if self.blocks.len() >= limits.max_blocks {
            let limit = limits.max_blocks as u64;
            return Err(Fault::TooMuch { field: "number of RAM blocks", value: limit + 1, limit });
        }
        if self.index.contains_key(name) {
            return Err(Fault::BlockRepeated { name: name.clone() });
        }
        self.missing -= len;
        self.index.insert(name.clone(), self.blocks.len());
        self.blocks.push(block);
        Ok(())
    }
}

/// Tells a page size from the next entry, or from the record behind the last one.
fn page_size_follows(reader: &Reader<'_>, last: bool) -> Parsed<bool> {
    if last { Ok(reader.peek_u64()? & flag::MASK == 0) } else { Ok(reader.peek_u8()? == 0) }
}
