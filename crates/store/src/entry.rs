//! What is known of one object before its bytes are read: its kind, and its entry in a pack's directory.
//!
//! Plain values, which `format` turns into bytes and `pack` and `index` hand on.

use std::fmt;

use crate::block::BlockSize;
use crate::hash::ObjectHash;

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
