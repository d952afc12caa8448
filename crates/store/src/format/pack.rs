//! The bytes of a pack: header, directory, footer. See `docs/store-format.md` for the diagrams.
//!
//! Entries and hashes of blocks have a fixed size, so that one of them can be read without the rest. The directory as
//! a whole is what the pack is named by.
#![deny(clippy::indexing_slicing)]

use super::Flaw;
use super::cursor::Cursor;
use crate::block::BlockSize;
use crate::entry::{Encoding, Entry, EntryNo, GroupBlocks, ObjectKind};
use crate::error::Part;
use crate::hash::{BlockHash, HASH_LEN, ObjectHash, PackId};

/// Version of packs that is written, and the highest that is read.
pub(crate) const PACK_VERSION: u32 = 2;
/// The first version with LZ4.
const LZ4_VERSION: u32 = 2;
/// Length of the header in bytes; the first payload follows.
pub(crate) const PACK_HEADER_LEN: usize = 64;
/// Length of the footer in bytes.
pub(crate) const PACK_FOOTER_LEN: usize = 128;
/// Length of an entry in bytes.
pub(crate) const ENTRY_LEN: usize = 64;
/// Entries of a pack are fewer than this, so that number and slot fit 32 bits together.
pub(crate) const MAX_ENTRIES: u32 = 1 << 24;
/// Longest object in bytes: 255 blocks of 64 KiB.
pub(crate) const MAX_OBJECT_BYTES: u32 = 255 << 16;

const HEADER_MAGIC: [u8; 8] = *b"VMRWPACK";
const FOOTER_MAGIC: [u8; 8] = *b"VMRWPEND";
const FOOTER_HASHED_LEN: usize = PACK_FOOTER_LEN - HASH_LEN;

/// What the end of a pack's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackFooter {
    pub(crate) version: u32,
    /// Where the directory begins: right after the last payload.
    pub(crate) directory_offset: u64,
    pub(crate) entries: u32,
    /// Hashes in the table of block hashes.
    pub(crate) blocks: u32,
    /// Hash of the directory.
    pub(crate) id: PackId,
}

/// All of a pack's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) entries: Vec<Entry>,
    pub(crate) blocks: Vec<BlockHash>,
}

/// Returns the first bytes of every pack of that version.
pub(crate) fn encode_pack_header(version: u32) -> [u8; PACK_HEADER_LEN] {
    let mut hashed = Vec::with_capacity(PACK_HEADER_LEN);
    hashed.extend_from_slice(&HEADER_MAGIC);
    hashed.extend_from_slice(&version.to_le_bytes());
    hashed.resize(PACK_HEADER_LEN - HASH_LEN, 0);
    hashed.extend_from_slice(blake3::hash(&hashed).as_bytes());
    let mut header = [0; PACK_HEADER_LEN];
    header.copy_from_slice(&hashed);
    header
}

/// Checks the first bytes of a pack of that version.
pub(crate) fn check_pack_header(bytes: &[u8; PACK_HEADER_LEN], version: u32) -> Result<(), Flaw> {
    let mut cursor = Cursor::new(Part::Header, bytes);
    magic_and_version(&mut cursor, HEADER_MAGIC)?;
    if *bytes != encode_pack_header(version) {
        return Err(cursor.flaw("it is not a pack's header"));
    }
    Ok(())
}

impl PackFooter {
    /// Returns the length of the directory in bytes.
    pub(crate) fn directory_len(&self) -> u64 {
        u64::from(self.entries) * ENTRY_LEN as u64 + u64::from(self.blocks) * HASH_LEN as u64
    }

    /// Returns the length of the file in bytes.
    pub(crate) fn file_len(&self) -> u64 {
        self.directory_offset + self.directory_len() + PACK_FOOTER_LEN as u64
    }

    /// Returns where an entry is in the file; none when the pack has no such entry.
    pub(crate) fn entry_offset(&self, entry: EntryNo) -> Option<u64> {
        (entry.0 < self.entries).then(|| self.directory_offset + u64::from(entry.0) * ENTRY_LEN as u64)
    }

    /// Returns where the hash of a block is in the file; the position comes from a decoded entry.
    pub(crate) fn block_hash_offset(&self, position: u32) -> u64 {
        let table = self.directory_offset + u64::from(self.entries) * ENTRY_LEN as u64;
        table + u64::from(position) * HASH_LEN as u64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PACK_FOOTER_LEN);
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.directory_offset.to_le_bytes());
        bytes.extend_from_slice(&self.directory_len().to_le_bytes());
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&self.blocks.to_le_bytes());
        bytes.extend_from_slice(&self.file_len().to_le_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.resize(FOOTER_HASHED_LEN, 0);
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Decodes the last bytes of a file of `file_len` bytes.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<PackFooter, Flaw> {
        let mut cursor = Cursor::new(Part::Footer, bytes);
        let version = magic_and_version(&mut cursor, FOOTER_MAGIC)?;
        cursor.zero(4)?;
        let directory_offset = cursor.u64("offset of the directory")?;
        let directory_len = cursor.u64("length of the directory")?;
        let entries = cursor.u32("number of entries")?;
        let blocks = cursor.u32("number of blocks")?;
        let recorded_len = cursor.u64("length of the file")?;
        let id = PackId::from_bytes(cursor.array("hash of the directory")?);
        cursor.zero(FOOTER_HASHED_LEN - cursor.offset())?;
        let hash: [u8; HASH_LEN] = cursor.array("hash")?;
        cursor.end()?;
        if bytes.get(..FOOTER_HASHED_LEN).map(blake3::hash).is_none_or(|found| *found.as_bytes() != hash) {
            return Err(cursor.flaw("its hash is wrong"));
        }
        let footer = PackFooter { version, directory_offset, entries, blocks, id };
        let fits = directory_offset >= PACK_HEADER_LEN as u64 && directory_offset <= file_len;
        if !fits || entries > MAX_ENTRIES || directory_len != footer.directory_len() {
            return Err(cursor.flaw("offset, length and entries of the directory don't agree"));
        }
        if footer.file_len() != file_len || recorded_len != file_len {
            return Err(cursor.flaw(format_args!("the file has {file_len} bytes instead of {recorded_len}")));
        }
        Ok(footer)
    }
}

impl Entry {
    /// Appends the entry to a directory.
    pub(crate) fn encode(&self, directory: &mut Vec<u8>) {
        let start = directory.len();
        directory.extend_from_slice(self.hash.as_bytes());
        directory.extend_from_slice(&self.offset.to_le_bytes());
        directory.extend_from_slice(&self.stored_len.to_le_bytes());
        directory.extend_from_slice(&self.raw_len.to_le_bytes());
        let (log2, count, first) =
            self.blocks.map_or((0, 0, 0), |blocks| (blocks.size.log2(), blocks.count, blocks.first));
        directory.extend_from_slice(&[kind_code(self.kind), encoding_code(self.encoding), log2, count]);
        directory.extend_from_slice(&first.to_le_bytes());
        directory.resize(start + ENTRY_LEN, 0);
    }

    /// Decodes one entry of the directory that `footer` tells of.
    pub(crate) fn decode(bytes: &[u8; ENTRY_LEN], footer: &PackFooter) -> Result<Entry, Flaw> {
        let mut cursor = Cursor::new(Part::Directory, bytes);
        let hash = ObjectHash::from_bytes(cursor.array("hash")?);
        let offset = cursor.u64("offset")?;
        let stored_len = cursor.u32("stored length")?;
        let raw_len = cursor.u32("raw length")?;
        let [kind, encoding, log2, count] = cursor.array("kind and encoding")?;
        let first = cursor.u32("first block hash")?;
        cursor.zero(ENTRY_LEN - cursor.offset())?;
        cursor.end()?;
        let kind = kind_of(kind).ok_or_else(|| cursor.flaw(format_args!("unknown kind {kind}")))?;
        let encoding = encoding_of(encoding, footer.version)
            .ok_or_else(|| cursor.flaw(format_args!("unknown encoding {encoding}")))?;
        let blocks = decode_blocks(kind, log2, count, first, footer).map_err(|what| cursor.flaw(what))?;
        let entry = Entry { hash, kind, encoding, offset, stored_len, raw_len, blocks };
        entry.check(footer).map_err(|what| cursor.flaw(what))?;
        Ok(entry)
    }

    fn check(&self, footer: &PackFooter) -> Result<(), &'static str> {
        let end = self.offset.checked_add(u64::from(self.stored_len));
        let is_inside =
            self.offset >= PACK_HEADER_LEN as u64 && end.is_some_and(|end| end <= footer.directory_offset);
        let lengths_agree = match self.encoding {
            Encoding::Raw => self.stored_len == self.raw_len,
            Encoding::Zstd | Encoding::Lz4 => self.stored_len < self.raw_len,
        };
        let blocks_agree =
            self.blocks.is_none_or(|blocks| u32::from(blocks.count) << blocks.size.log2() == self.raw_len);
        if !is_inside {
            Err("the payload is not between header and directory")
        } else if self.raw_len == 0 || self.raw_len > MAX_OBJECT_BYTES || !lengths_agree {
            Err("stored and raw length don't agree")
        } else if !blocks_agree {
            Err("length and number of blocks don't agree")
        } else {
            Ok(())
        }
    }
}

impl Directory {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = self.entries.len() * ENTRY_LEN + self.blocks.len() * HASH_LEN;
        let mut bytes = Vec::with_capacity(len);
        for entry in &self.entries {
            entry.encode(&mut bytes);
        }
        for hash in &self.blocks {
            bytes.extend_from_slice(hash.as_bytes());
        }
        bytes
    }

    /// Decodes and verifies the directory that `footer` tells of.
    pub(crate) fn decode(bytes: &[u8], footer: &PackFooter) -> Result<Directory, Flaw> {
        let mut cursor = Cursor::new(Part::Directory, bytes);
        if bytes.len() as u64 != footer.directory_len() {
            return Err(cursor.flaw(format_args!("it has {} bytes", bytes.len())));
        }
        if PackId::of(bytes) != footer.id {
            return Err(cursor.flaw("its hash is wrong"));
        }
        let mut directory = Directory::default();
        for number in 0..footer.entries {
            let entry = Entry::decode(&cursor.array("entry")?, footer)
                .map_err(|flaw| flaw.at(format_args!("entry {number}")))?;
            directory.entries.push(entry);
        }
        for _ in 0..footer.blocks {
            directory.blocks.push(BlockHash::from_bytes(cursor.array("block hash")?));
        }
        cursor.end()?;
        Ok(directory)
    }

    /// Returns each entry with its number.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (EntryNo, &Entry)> {
        (0..).map(EntryNo).zip(&self.entries)
    }

    /// Returns the hashes of an entry's blocks, by slot; nothing for what is not a group.
    pub(crate) fn block_hashes(&self, entry: &Entry) -> &[BlockHash] {
        let range = entry.blocks.map(|blocks| {
            let first = blocks.first as usize;
            first..first + usize::from(blocks.count)
        });
        range.and_then(|range| self.blocks.get(range)).unwrap_or_default()
    }
}

fn decode_blocks(
    kind: ObjectKind,
    log2: u8,
    count: u8,
    first: u32,
    footer: &PackFooter,
) -> Result<Option<GroupBlocks>, String> {
    if kind != ObjectKind::Group {
        return if (log2, count, first) == (0, 0, 0) {
            Ok(None)
        } else {
            Err(format!("a {kind} with blocks"))
        };
    }
    let size = BlockSize::from_log2(log2).ok_or_else(|| format!("unknown block size 2^{log2}"))?;
    let end = first.checked_add(u32::from(count));
    if count == 0 || end.is_none_or(|end| end > footer.blocks) {
        return Err(format!("{count} block hashes from {first} on, of {}", footer.blocks));
    }
    Ok(Some(GroupBlocks { size, count, first }))
}

fn magic_and_version(cursor: &mut Cursor<'_>, magic: [u8; 8]) -> Result<u32, Flaw> {
    if cursor.array::<8>("magic")? != magic {
        return Err(cursor.flaw("the magic is wrong"));
    }
    match cursor.u32("version")? {
        0 => Err(cursor.flaw("version 0")),
        version @ ..=PACK_VERSION => Ok(version),
        newer => Err(Flaw::Newer(newer)),
    }
}

fn kind_code(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Group => 1,
        ObjectKind::Node => 2,
        ObjectKind::Blob => 3,
    }
}

fn kind_of(code: u8) -> Option<ObjectKind> {
    [ObjectKind::Group, ObjectKind::Node, ObjectKind::Blob].into_iter().find(|kind| kind_code(*kind) == code)
}

fn encoding_code(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Raw => 0,
        Encoding::Zstd => 1,
        Encoding::Lz4 => 2,
    }
}

fn encoding_of(code: u8, version: u32) -> Option<Encoding> {
    let known = [Encoding::Raw, Encoding::Zstd, Encoding::Lz4];
    let found = known.into_iter().find(|encoding| encoding_code(*encoding) == code);
    found.filter(|encoding| *encoding != Encoding::Lz4 || version >= LZ4_VERSION)
}
