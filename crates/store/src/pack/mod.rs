//! Packs: files of compressed objects, each named by the hash of its uncompressed bytes.
//!
//! ```text
//!   PackWriter ──append (several threads)──▶ X.pack.part ──seal: directory, footer, sync; publish: rename──▶ PACKID.pack
//!   PackFile   ◀──entry, block hashes, payload: one small read each──                                 PACKID.pack
//! ```
//!
//! A pack never changes once it has its final name. The bytes are drawn in `docs/format.md`.

mod codec;
mod file;
mod open;
mod pieces;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

pub(crate) use codec::{Decoder, Encoder};
pub(crate) use file::PackFile;
pub(crate) use open::OpenPacks;
pub(crate) use writer::{NewObject, PackWriter, SealedPack, SealedPart};

use crate::block::BlockSize;
use crate::hash::{ObjectHash, PackId};

/// Ends the name of a complete pack.
const PACK_SUFFIX: &str = ".pack";

/// What an object is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// Blocks that are compressed together.
    Group,
    /// A node of an image's tree.
    Node,
    /// A piece of an attachment.
    Blob,
}

/// How an object's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// As they are.
    Raw,
    /// As one zstd frame.
    Zstd,
    /// As one LZ4 block.
    Lz4,
}

/// Number of an object in its pack, below 2^24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryNo(pub(crate) u32);

/// One object in a pack's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: ObjectHash,
    pub(crate) kind: ObjectKind,
    pub(crate) encoding: Encoding,
    /// Where the stored bytes begin in the file.
    pub(crate) offset: u64,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    /// Of a group: size and number of its blocks.
    pub(crate) blocks: Option<GroupBlocks>,
}

/// Blocks of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupBlocks {
    pub(crate) size: BlockSize,
    pub(crate) count: u8,
    /// Position of the first one's hash in the pack's table of block hashes.
    pub(crate) first: u32,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ObjectKind::Group => "group",
            ObjectKind::Node => "node",
            ObjectKind::Blob => "blob",
        })
    }
}

/// Returns the name of a complete pack's file.
pub(crate) fn pack_name(id: &PackId) -> String {
    format!("{id}{PACK_SUFFIX}")
}

/// Takes a file's name for that of a complete pack.
pub(crate) fn pack_of(name: &str) -> Option<PackId> {
    name.strip_suffix(PACK_SUFFIX)?.parse().ok()
}
