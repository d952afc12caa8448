//! The bytes of an index segment: sorted entries, then what finds them. See `docs/store-format.md` for the diagrams.
//!
//! Entries are in two tables, of objects and of blocks, each sorted by the first 64 bits of the hash. A fanout says for
//! each bucket of prefixes where its entries begin, so that a look-up reads one bucket. A filter spares writers most
//! look-ups of blocks that are not there.
#![deny(clippy::indexing_slicing)]

use super::Flaw;
use super::cursor::Cursor;
use super::filter::{LINE_LEN, MAX_LINES};
use crate::entry::EntryNo;
use crate::error::Part;
use crate::hash::{HASH_LEN, PackId};

/// Version of segments that is written and read.
pub(crate) const SEGMENT_VERSION: u32 = 1;
/// Length of the header in bytes; the entries follow.
pub(crate) const SEGMENT_HEADER_LEN: usize = 16;
/// Length of the footer in bytes.
pub(crate) const SEGMENT_FOOTER_LEN: usize = 192;
/// Length of an entry in bytes.
pub(crate) const INDEX_ENTRY_LEN: usize = 16;
/// Most packs that a segment covers.
pub(crate) const MAX_PACKS: u32 = 1 << 20;

const HEADER_MAGIC: [u8; 8] = *b"VMRSEGMT";
const FOOTER_MAGIC: [u8; 8] = *b"VMRSGEND";
const FOOTER_HASHED_LEN: usize = SEGMENT_FOOTER_LEN - HASH_LEN;
/// Entries in a bucket, at most on average.
const BUCKET_ENTRIES: u64 = 128;
const MAX_FANOUT_BITS: u8 = 24;

/// One of a segment's two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Table {
    /// Where objects are; [`IndexEntry::place`] is their number in the pack.
    Objects,
    /// Where blocks are; [`IndexEntry::place`] is number of the group and slot.
    Blocks,
}

/// A hint: an object or block whose hash begins with `prefix` may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexEntry {
    pub(crate) prefix: u64,
    /// Position in [`Meta::packs`].
    pub(crate) pack: u32,
    pub(crate) place: u32,
}

/// What finds the entries, and the packs they are in; kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) packs: Vec<PackId>,
    pub(crate) objects: Fanout,
    pub(crate) blocks: Fanout,
}

/// For each bucket of prefixes, where its entries begin in the table; and where the last one ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fanout {
    bits: u8,
    starts: Vec<u32>,
}

/// What the end of a segment's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentFooter {
    pub(crate) objects: u32,
    pub(crate) blocks: u32,
    pub(crate) packs: u32,
    pub(crate) object_bits: u8,
    pub(crate) block_bits: u8,
    /// Length of the filter.
    pub(crate) filter_lines: u32,
    pub(crate) filter_hash: [u8; HASH_LEN],
    /// Hash of both tables.
    pub(crate) entries_hash: [u8; HASH_LEN],
    /// Hash of packs and fanouts.
    pub(crate) meta_hash: [u8; HASH_LEN],
}

/// Returns the first bytes of every segment.
pub(crate) fn encode_segment_header() -> [u8; SEGMENT_HEADER_LEN] {
    let mut header = [0; SEGMENT_HEADER_LEN];
    let version = SEGMENT_VERSION.to_le_bytes();
    for (to, from) in header.iter_mut().zip(HEADER_MAGIC.iter().chain(&version)) {
        *to = *from;
    }
    header
}

/// Checks the first bytes of a segment.
pub(crate) fn check_segment_header(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<(), Flaw> {
    let mut cursor = Cursor::new(Part::Header, bytes);
    magic_and_version(&mut cursor, HEADER_MAGIC)?;
    cursor.zero(4)?;
    cursor.end()
}

impl IndexEntry {
    /// Packs number of the group and slot of a block into one.
    pub(crate) fn block_place(entry: EntryNo, slot: u8) -> u32 {
        entry.0 << 8 | u32::from(slot)
    }

    /// Takes a block's place for number of the group and slot.
    pub(crate) fn as_block(self) -> (EntryNo, u8) {
        let [slot, ..] = self.place.to_le_bytes();
        (EntryNo(self.place >> 8), slot)
    }

    pub(crate) fn encode(self) -> [u8; INDEX_ENTRY_LEN] {
        // The order of fields makes the numbers' order that of the entries.
        let number = u128::from(self.prefix) << 64 | u128::from(self.pack) << 32 | u128::from(self.place);
        number.to_le_bytes()
    }

    pub(crate) fn decode(bytes: [u8; INDEX_ENTRY_LEN]) -> IndexEntry {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        IndexEntry {
            prefix: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
            pack: u32::from_le_bytes([e, f, g, h]),
            place: u32::from_le_bytes([a, b, c, d]),
        }
    }
}

impl Fanout {
    /// Begins the fanout of a table that will have at most `entries` entries, added in order.
    pub(crate) fn builder(entries: u64) -> FanoutBuilder {
        let bits = (0..MAX_FANOUT_BITS).find(|bits| entries >> bits <= BUCKET_ENTRIES);
        FanoutBuilder { bits: bits.unwrap_or(MAX_FANOUT_BITS), starts: vec![0], count: 0 }
    }

    /// Returns the number of entries in the table.
    pub(crate) fn entries(&self) -> u32 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Returns which entries of the table can have that prefix.
    pub(crate) fn bucket(&self, prefix: u64) -> std::ops::Range<u32> {
        let bucket = bucket_of(prefix, self.bits);
        match (self.starts.get(bucket), self.starts.get(bucket + 1)) {
            (Some(&start), Some(&end)) => start..end,
            _ => 0..0,
        }
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        for start in &self.starts {
            bytes.extend_from_slice(&start.to_le_bytes());
        }
    }

    fn decode(cursor: &mut Cursor<'_>, bits: u8, entries: u32) -> Result<Fanout, Flaw> {
        let mut starts: Vec<u32> = Vec::with_capacity(fanout_len(bits));
        for _ in 0..fanout_len(bits) {
            let start = cursor.u32("start of a bucket")?;
            if starts.last().map_or(start != 0, |&last| start < last) {
                return Err(cursor.flaw("buckets are not in order"));
            }
            starts.push(start);
        }
        let fanout = Fanout { bits, starts };
        if fanout.entries() != entries {
            return Err(cursor.flaw(format_args!("buckets of {} entries", fanout.entries())));
        }
        Ok(fanout)
    }
}

/// Notes where buckets begin while entries are written.
#[derive(Debug)]
pub(crate) struct FanoutBuilder {
    bits: u8,
    /// Start of each bucket up to the present one.
    starts: Vec<u32>,
    count: u32,
}

impl FanoutBuilder {
    /// Counts an entry, which is not before the last one.
    pub(crate) fn add(&mut self, prefix: u64) {
        let bucket = bucket_of(prefix, self.bits);
        if self.starts.len() <= bucket {
            self.starts.resize(bucket + 1, self.count);
        }
        self.count += 1;
    }

    /// Returns the fanout of what was added.
    pub(crate) fn finish(mut self) -> Fanout {
        self.starts.resize(fanout_len(self.bits), self.count);
        Fanout { bits: self.bits, starts: self.starts }
    }
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for pack in &self.packs {
            bytes.extend_from_slice(pack.as_bytes());
        }
        self.objects.encode(&mut bytes);
        self.blocks.encode(&mut bytes);
        bytes
    }

    /// Decodes and verifies what `footer` tells of.
    pub(crate) fn decode(bytes: &[u8], footer: &SegmentFooter) -> Result<Meta, Flaw> {
        let mut cursor = Cursor::new(Part::Tables, bytes);
        if bytes.len() as u64 != footer.meta_len() {
            return Err(cursor.flaw(format_args!("they have {} bytes", bytes.len())));
        }
        if *blake3::hash(bytes).as_bytes() != footer.meta_hash {
            return Err(cursor.flaw("their hash is wrong"));
        }
        let packs = (0..footer.packs).map(|_| cursor.array("pack").map(PackId::from_bytes));
        let packs = packs.collect::<Result<Vec<_>, _>>()?;
        let objects = Fanout::decode(&mut cursor, footer.object_bits, footer.objects)?;
        let blocks = Fanout::decode(&mut cursor, footer.block_bits, footer.blocks)?;
        cursor.end()?;
        Ok(Meta { packs, objects, blocks })
    }

    /// Returns the footer of a segment with these tables, of which `encoded` are the bytes, and that filter.
    pub(crate) fn footer(
        &self,
        encoded: &[u8],
        (filter_lines, filter_hash): (u32, [u8; HASH_LEN]),
        entries_hash: [u8; HASH_LEN],
    ) -> SegmentFooter {
        SegmentFooter {
            objects: self.objects.entries(),
            blocks: self.blocks.entries(),
            packs: u32::try_from(self.packs.len()).unwrap_or(u32::MAX),
            object_bits: self.objects.bits,
            block_bits: self.blocks.bits,
            filter_lines,
            filter_hash,
            entries_hash,
            meta_hash: *blake3::hash(encoded).as_bytes(),
        }
    }
}

impl SegmentFooter {
    /// Returns where the first entry of a table is in the file.
    pub(crate) fn table_offset(&self, table: Table) -> u64 {
        let before = if table == Table::Blocks { u64::from(self.objects) } else { 0 };
        SEGMENT_HEADER_LEN as u64 + before * INDEX_ENTRY_LEN as u64
    }

    /// Returns where the filter begins: right after the entries.
    pub(crate) fn filter_offset(&self) -> u64 {
        self.table_offset(Table::Blocks) + u64::from(self.blocks) * INDEX_ENTRY_LEN as u64
    }

    /// Returns the length of the filter in bytes.
    pub(crate) fn filter_len(&self) -> u64 {
        u64::from(self.filter_lines) * LINE_LEN as u64
    }

    /// Returns where packs and fanouts begin: right after the filter.
    pub(crate) fn meta_offset(&self) -> u64 {
        self.filter_offset() + self.filter_len()
    }

    /// Returns the length of packs and fanouts in bytes.
    pub(crate) fn meta_len(&self) -> u64 {
        let starts = fanout_len(self.object_bits) + fanout_len(self.block_bits);
        u64::from(self.packs) * HASH_LEN as u64 + starts as u64 * size_of::<u32>() as u64
    }

    /// Returns the length of the file in bytes.
    pub(crate) fn file_len(&self) -> u64 {
        self.meta_offset() + self.meta_len() + SEGMENT_FOOTER_LEN as u64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_FOOTER_LEN);
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&SEGMENT_VERSION.to_le_bytes());
        for count in [self.objects, self.blocks, self.packs] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend_from_slice(&[self.object_bits, self.block_bits, 0, 0]);
        bytes.extend_from_slice(&self.filter_lines.to_le_bytes());
        bytes.extend_from_slice(&self.filter_hash);
        bytes.extend_from_slice(&self.entries_hash);
        bytes.extend_from_slice(&self.meta_hash);
        bytes.resize(FOOTER_HASHED_LEN, 0);
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Decodes the last bytes of a file of `file_len` bytes.
    pub(crate) fn decode(bytes: &[u8], file_len: u64) -> Result<SegmentFooter, Flaw> {
        let mut cursor = Cursor::new(Part::Footer, bytes);
        magic_and_version(&mut cursor, FOOTER_MAGIC)?;
        let objects = cursor.u32("number of objects")?;
        let blocks = cursor.u32("number of blocks")?;
        let packs = cursor.u32("number of packs")?;
        let [object_bits, block_bits] = cursor.array("bits of the fanouts")?;
        cursor.zero(2)?;
        let filter_lines = cursor.u32("length of the filter")?;
        let filter_hash = cursor.array("hash of the filter")?;
        let entries_hash = cursor.array("hash of the entries")?;
        let meta_hash = cursor.array("hash of the tables")?;
        cursor.zero(FOOTER_HASHED_LEN - cursor.offset())?;
        let hash: [u8; HASH_LEN] = cursor.array("hash")?;
        cursor.end()?;
        if bytes.get(..FOOTER_HASHED_LEN).map(blake3::hash).is_none_or(|found| *found.as_bytes() != hash) {
            return Err(cursor.flaw("its hash is wrong"));
        }
        let footer = SegmentFooter {
            objects,
            blocks,
            packs,
            object_bits,
            block_bits,
            filter_lines,
            filter_hash,
            entries_hash,
            meta_hash,
        };
        if packs > MAX_PACKS || filter_lines > MAX_LINES || object_bits.max(block_bits) > MAX_FANOUT_BITS {
            return Err(cursor.flaw("too many packs, lines or buckets"));
        }
        if footer.file_len() != file_len {
            return Err(cursor.flaw(format_args!("the file has {file_len} bytes, not {}", footer.file_len())));
        }
        Ok(footer)
    }
}

fn fanout_len(bits: u8) -> usize {
    (1 << bits) + 1
}

fn bucket_of(prefix: u64, bits: u8) -> usize {
    // At most MAX_FANOUT_BITS bits remain.
    usize::try_from(prefix.checked_shr(u64::BITS - u32::from(bits)).unwrap_or(0)).unwrap_or(0)
}

fn magic_and_version(cursor: &mut Cursor<'_>, magic: [u8; 8]) -> Result<(), Flaw> {
    if cursor.array::<8>("magic")? != magic {
        return Err(cursor.flaw("the magic is wrong"));
    }
    match cursor.u32("version")? {
        SEGMENT_VERSION => Ok(()),
        0 => Err(cursor.flaw("version 0")),
        newer => Err(Flaw::Newer(newer)),
    }
}
