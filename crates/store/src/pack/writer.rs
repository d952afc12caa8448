//! Writes one pack; several threads may append at once.
//!
//! ```text
//!   begin ─▶ X.pack.part: header ─append─▶ payloads ─seal─▶ directory, footer, sync ─publish─▶ PACKID.pack
//!               └── dropped, or a write fails: the part file is removed
//! ```
//!
//! An append reserves its place and leaves its payload with others under a lock; whoever makes a piece of the file whole
//! writes it, outside of the lock. The directory is in memory until the pack is finished: it is what the pack is named by.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pieces::{Piece, Pieces};
use crate::block::BlockSize;
use crate::entry::{Encoding, Entry, EntryNo, GroupBlocks, ObjectKind};
use crate::error::StoreError;
use crate::format::pack::{
    Directory, MAX_ENTRIES, PACK_HEADER_LEN, PACK_VERSION, PackFooter, encode_pack_header,
};
use crate::hash::{BlockHash, ObjectHash, PackId};
use crate::shared::{Latch, pack_name};
use crate::storage::StorageFile;

/// Payload of a full pack in bytes.
pub(crate) const PACK_BYTES: u64 = 64 << 20;
/// Blocks of a full pack: their hashes take 8 MiB of memory while it is written.
const FULL_BLOCKS: usize = 1 << 18;
/// Objects of a full pack.
const FULL_ENTRIES: usize = 1 << 17;
/// Written bytes after which the system is told to start writing them to the disk.
const WRITEBACK_BYTES: u64 = 16 << 20;

/// A pack that is being written. When it is dropped its file is removed.
pub(crate) struct PackWriter {
    latch: Arc<Latch>,
    /// Temporary name, until it has been renamed.
    part: String,
    file: Box<dyn StorageFile>,
    state: Mutex<State>,
    is_finished: bool,
}

struct State {
    directory: Directory,
    /// Payloads that are not written yet.
    pieces: Pieces,
    /// End of what the system was told to write to the disk.
    written_back: u64,
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

/// A complete, synced pack that still has its temporary name.
pub(crate) struct SealedPart {
    writer: PackWriter,
    pack: SealedPack,
}

impl PackWriter {
    /// Begins a pack under the temporary name `part`, which ends in `.pack.part`; one without a writer is replaced.
    pub(crate) fn begin(latch: Arc<Latch>, part: &str) -> Result<PackWriter, StoreError> {
        let file = latch.create_part(part)?;
        let mut pieces = Pieces::default();
        // The header is shorter than a piece.
        pieces.push(&encode_pack_header(PACK_VERSION));
        let state = State { directory: Directory::default(), pieces, written_back: 0 };
        let part = part.to_owned();
        Ok(PackWriter { latch, part, file, state: Mutex::new(state), is_finished: false })
    }

    /// Appends an object; it can be read by its entry once the pack is sealed.
    ///
    /// Does not look whether the pack has the object already. Fails with [`StoreError::Latched`] after any write failed.
    pub(crate) fn append(&self, object: NewObject<'_>) -> Result<EntryNo, StoreError> {
        self.latch.check()?;
        let mut state = self.state();
        let Some(number) = state.reserve(&object) else {
            drop(state);
            let full = io::ErrorKind::FileTooLarge.into();
            return Err(self.latch.write_failed("append to", &self.part, full));
        };
        let whole = state.pieces.push(object.payload);
        let writeback = state.writeback();
        drop(state);
        if let Some((start, len)) = writeback {
            // A hint: what it fails to do, the sync does.
            let _ = self.file.start_writeback(start, len);
        }
        for piece in whole {
            self.write(&piece)?;
            self.state().pieces.give_back(piece);
        }
        Ok(number)
    }

    /// Says whether the pack is large enough to be finished.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state();
        let Directory { entries, blocks } = &state.directory;
        state.payload_bytes() >= PACK_BYTES || entries.len() >= FULL_ENTRIES || blocks.len() >= FULL_BLOCKS
    }

    /// Returns the bytes of payload so far.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.state().payload_bytes()
    }

    /// Writes directory and footer, and syncs. None is returned for a pack without objects, whose file is removed.
    ///
    /// The file keeps its temporary name until [`SealedPart::publish`]: it goes when the result is dropped.
    pub(crate) fn seal(self) -> Result<Option<SealedPart>, StoreError> {
        self.latch.check()?;
        let (directory, mut pieces) = {
            let mut state = self.state();
            (std::mem::take(&mut state.directory), std::mem::take(&mut state.pieces))
        };
        if directory.entries.is_empty() {
            return Ok(None);
        }
        let mut tail = directory.encode();
        // Both numbers are bounded when objects are appended.
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (entries, blocks) = (count(directory.entries.len()), count(directory.blocks.len()));
        drop(directory);
        let id = PackId::of(&tail);
        let footer =
            PackFooter { version: PACK_VERSION, directory_offset: pieces.end(), entries, blocks, id };
        tail.extend_from_slice(&footer.encode());
        for piece in pieces.push(&tail) {
            self.write(&piece)?;
        }
        self.write(&pieces.end_piece())?;
        self.file.sync().map_err(|error| self.latch.write_failed("sync", &self.part, error))?;
        let pack = SealedPack { id, entries, stored_bytes: footer.file_len() };
        Ok(Some(SealedPart { writer: self, pack }))
    }

    /// Writes directory and footer, syncs, and gives the file its final name.
    ///
    /// Of threads that share the writer in an `Arc`, the last one gets it by `Arc::into_inner`. None is returned for a
    /// pack without objects, whose file is removed.
    pub(crate) fn finish(self) -> Result<Option<SealedPack>, StoreError> {
        self.seal()?.map(SealedPart::publish).transpose()
    }

    fn write(&self, piece: &Piece) -> Result<(), StoreError> {
        let written = self.file.write_at(piece.offset, &piece.bytes);
        written.map_err(|error| self.latch.write_failed("write", &self.part, error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that died has reported it; the directory is changed in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SealedPart {
    /// Gives the file its final name, and lets go of it.
    pub(crate) fn publish(mut self) -> Result<SealedPack, StoreError> {
        let PackWriter { latch, part, .. } = &self.writer;
        let renamed = latch.storage().rename(part, &pack_name(&self.pack.id));
        renamed.map_err(|error| latch.write_failed("rename", part, error))?;
        self.writer.is_finished = true;
        Ok(self.pack)
    }
}

impl State {
    fn payload_bytes(&self) -> u64 {
        self.pieces.end() - PACK_HEADER_LEN as u64
    }

    /// Enters an object, whose payload comes next, in the directory; returns its number. None when the pack has no room.
    fn reserve(&mut self, object: &NewObject<'_>) -> Option<EntryNo> {
        let Directory { entries, blocks } = &mut self.directory;
        let number = u32::try_from(entries.len()).ok().filter(|number| number + 1 < MAX_ENTRIES)?;
        let stored_len = u32::try_from(object.payload.len()).ok()?;
        let group = match object.blocks {
            Some((size, hashes)) => {
                let count = u8::try_from(hashes.len()).ok()?;
                let first = u32::try_from(blocks.len()).ok()?;
                blocks.extend_from_slice(hashes);
                Some(GroupBlocks { size, count, first })
            }
            None => None,
        };
        entries.push(Entry {
            hash: object.hash,
            kind: object.kind,
            encoding: object.encoding,
            offset: self.pieces.end(),
            stored_len,
            raw_len: object.raw_len,
            blocks: group,
        });
        Some(EntryNo(number))
    }

    /// Returns the range that the system is to be told about now.
    fn writeback(&mut self) -> Option<(u64, u64)> {
        let (start, len) = (self.written_back, self.pieces.start() - self.written_back);
        if len < WRITEBACK_BYTES {
            return None;
        }
        self.written_back = self.pieces.start();
        Some((start, len))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays is swept later as a part file without a writer.
            let _ = self.latch.storage().remove(&self.part);
        }
    }
}
