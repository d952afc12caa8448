//! Writes one pack; several threads may append at once.

use std::sync::Arc;

use super::{Encoding, Entry, EntryNo, ObjectKind};
use crate::StoreError;
use crate::block::BlockSize;
use crate::hash::{BlockHash, ObjectHash, PackId};
use crate::store::Shared;

/// A pack that is being written. When it is dropped its file is removed.
pub(crate) struct PackWriter {
    shared: Arc<Shared>,
}

/// An object that is to be appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewObject<'a> {
    pub(crate) hash: ObjectHash,
    pub(crate) kind: ObjectKind,
    pub(crate) encoding: Encoding,
    /// Length before compression.
    pub(crate) raw_len: u32,
    /// Bytes as they are stored, from [`Encoder`](super::Encoder).
    pub(crate) payload: &'a [u8],
    /// Of a group: size and hashes of its blocks, at most 255.
    pub(crate) blocks: Option<(BlockSize, &'a [BlockHash])>,
}

/// A complete pack: synced, under its final name. Its name is durable once the caller has synced the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealedPack {
    pub(crate) id: PackId,
    /// Number of objects; entries are 0..entries.
    pub(crate) entries: u32,
    /// Length of the file.
    pub(crate) stored_bytes: u64,
}

impl PackWriter {
    /// Begins a pack under the temporary name `part`, which ends in `.pack.part`.
    pub(crate) fn begin(shared: Arc<Shared>, part: &str) -> Result<PackWriter, StoreError> {
        let _ = part;
        Ok(PackWriter { shared })
    }

    /// Appends an object; when this returns it can be read by its entry.
    ///
    /// Does not look whether the pack has the object already. Fails with [`StoreError::Latched`] after any write failed.
    pub(crate) fn append(&self, object: NewObject<'_>) -> Result<EntryNo, StoreError> {
        let _ = (&self.shared, object);
        Err(StoreError::Latched)
    }

    /// Returns the bytes of payload so far.
    pub(crate) fn payload_bytes(&self) -> u64 {
        0
    }

    /// Returns an entry of the directory as it is now.
    pub(crate) fn entry(&self, entry: EntryNo) -> Option<Entry> {
        let _ = entry;
        None
    }

    /// Returns the hash of one block of a group.
    pub(crate) fn block_hash(&self, entry: EntryNo, slot: u8) -> Option<BlockHash> {
        let _ = (entry, slot);
        None
    }

    /// Writes directory and footer, syncs, and gives the file its final name.
    ///
    /// Of threads that share the writer in an `Arc`, the last one gets it by `Arc::into_inner`. None is returned for a
    /// pack without objects, whose file is removed.
    pub(crate) fn finish(self) -> Result<Option<SealedPack>, StoreError> {
        Err(StoreError::Latched)
    }
}
