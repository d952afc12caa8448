//! Finds objects and blocks by hash: a stack of sorted segments over the packs.
//!
//! The index is a cache. A segment's answers are hints, verified in the pack's directory; a pack that no segment covers
//! gets one when the index is loaded; a lost, stale or damaged segment costs time, never data.

use std::sync::Arc;

use crate::StoreError;
use crate::hash::{BlockHash, ObjectHash, PackId};
use crate::pack::{Entry, EntryNo, ObjectKind};
use crate::store::Shared;

/// All segments and packs of a store. Loaded at the first look-up.
pub(crate) struct Index {
    shared: Arc<Shared>,
}

/// Where an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectPlace {
    pub(crate) pack: PackId,
    pub(crate) number: EntryNo,
    pub(crate) entry: Entry,
}

/// Where a block is: which group, and which of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    /// The group; its hash is `group.entry.hash`.
    pub(crate) group: ObjectPlace,
    pub(crate) slot: u8,
}

impl Index {
    /// Makes an index that is loaded at its first use.
    pub(crate) fn new(shared: Arc<Shared>) -> Index {
        Index { shared }
    }

    /// Finds an object. Found in the directory of a pack that is there; its bytes are not looked at.
    pub(crate) fn find_object(
        &self,
        hash: &ObjectHash,
        kind: ObjectKind,
    ) -> Result<Option<ObjectPlace>, StoreError> {
        let _ = (&self.shared, hash, kind);
        Ok(None)
    }

    /// Finds a block by its full hash.
    pub(crate) fn find_block(&self, hash: &BlockHash) -> Result<Option<BlockPlace>, StoreError> {
        let _ = hash;
        Ok(None)
    }

    /// Makes new packs known here, and writes a segment for them, which other processes find; merges small segments.
    ///
    /// The packs' names need to be durable. A failure to write the segment is no failure: it is written later.
    pub(crate) fn add_packs(&self, packs: &[PackId]) -> Result<(), StoreError> {
        let _ = packs;
        Ok(())
    }

    /// Looks at the storage anew: what other processes added, what they removed.
    pub(crate) fn reload(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
