//! One segment: written in order, searched by one small read.
//!
//! A segment is written to any [`StorageFile`], so it also serves for tables that outgrow memory during a capture. What
//! it answers is a hint: whoever asks compares the full hash.

use std::io;
use std::sync::OnceLock;

use crate::error::Part;
use crate::format::Flaw;
use crate::format::filter::Filter;
use crate::format::segment::{
    Fanout, FanoutBuilder, INDEX_ENTRY_LEN, IndexEntry, Meta, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN,
    SegmentFooter, Table, check_segment_header, encode_segment_header,
};
use crate::hash::{HASH_LEN, PackId};
use crate::storage::StorageFile;

/// Bytes of entries that are written, or read in order, at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Buckets up to this many bytes are read without an allocation.
const SMALL_BUCKET: usize = 4096;

/// An open segment. Packs and fanouts are in memory, entries are not.
pub(crate) struct Segment {
    file: Box<dyn StorageFile>,
    footer: SegmentFooter,
    meta: Meta,
    /// Loaded for those who ask for many blocks that are not there; none where it cannot be.
    filter: OnceLock<Option<Filter>>,
}

/// Why a segment cannot be used.
#[derive(Debug)]
pub(crate) enum SegmentError {
    /// It cannot be read.
    Io(io::Error),
    /// It is not a segment, or damaged.
    Flaw(Flaw),
}

impl Segment {
    /// Opens a segment and verifies all but its entries.
    pub(crate) fn open(file: Box<dyn StorageFile>) -> Result<Segment, SegmentError> {
        let len = file.len()?;
        let Some(footer_offset) = len.checked_sub(SEGMENT_FOOTER_LEN as u64) else {
            return Err(Flaw::new(Part::Footer, format!("the file has only {len} bytes")).into());
        };
        let mut header = [0; SEGMENT_HEADER_LEN];
        file.read_at(0, &mut header)?;
        check_segment_header(&header)?;
        let mut bytes = [0; SEGMENT_FOOTER_LEN];
        file.read_at(footer_offset, &mut bytes)?;
        let footer = SegmentFooter::decode(&bytes, len)?;
        // Not longer than the file, as the footer's lengths add up to the file's.
        let mut bytes = vec![0; usize::try_from(footer.meta_len()).unwrap_or(0)];
        file.read_at(footer.meta_offset(), &mut bytes)?;
        let meta = Meta::decode(&bytes, &footer)?;
        Ok(Segment { file, footer, meta, filter: OnceLock::new() })
    }

    /// Returns the packs that the segment covers; entries name them by position.
    pub(crate) fn packs(&self) -> &[PackId] {
        &self.meta.packs
    }

    /// Returns the pack that an entry names.
    pub(crate) fn pack(&self, entry: IndexEntry) -> Option<PackId> {
        self.meta.packs.get(entry.pack as usize).copied()
    }

    /// Returns the number of entries in both tables.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.footer.objects) + u64::from(self.footer.blocks)
    }

    /// Returns the number of entries in one table.
    pub(crate) fn table_len(&self, table: Table) -> u32 {
        match table {
            Table::Objects => self.footer.objects,
            Table::Blocks => self.footer.blocks,
        }
    }

    /// Returns the length of the filter in bytes.
    pub(crate) fn filter_len(&self) -> u64 {
        self.footer.filter_len()
    }

    /// Loads the filter, which then spares [`Segment::hits`] most reads for blocks that are not there.
    pub(crate) fn load_filter(&self) {
        self.filter.get_or_init(|| self.read_filter().ok());
    }

    fn read_filter(&self) -> Result<Filter, SegmentError> {
        // Not longer than the file, as the footer's lengths add up to the file's.
        let mut bytes = vec![0; usize::try_from(self.footer.filter_len()).unwrap_or(0)];
        self.file.read_at(self.footer.filter_offset(), &mut bytes)?;
        Ok(Filter::decode(&bytes, &self.footer.filter_hash)?)
    }

    /// Returns the entries of a table whose hashes begin with `prefix`.
    pub(crate) fn hits(&self, table: Table, prefix: u64) -> io::Result<Vec<IndexEntry>> {
        let filter = self.filter.get().and_then(Option::as_ref);
        if table == Table::Blocks && filter.is_some_and(|filter| !filter.may_have(prefix)) {
            return Ok(Vec::new());
        }
        let fanout = match table {
            Table::Objects => &self.meta.objects,
            Table::Blocks => &self.meta.blocks,
        };
        let bucket = fanout.bucket(prefix);
        if bucket.is_empty() {
            return Ok(Vec::new());
        }
        let offset = self.footer.table_offset(table) + u64::from(bucket.start) * INDEX_ENTRY_LEN as u64;
        let len = bucket.len() * INDEX_ENTRY_LEN;
        let mut small = [0; SMALL_BUCKET];
        let mut large = Vec::new();
        let bytes = if len <= SMALL_BUCKET {
            &mut small[..len]
        } else {
            large.resize(len, 0);
            &mut large[..]
        };
        self.file.read_at(offset, bytes)?;
        let entries = bytes.as_chunks::<INDEX_ENTRY_LEN>().0;
        let first = entries.partition_point(|entry| IndexEntry::decode(*entry).prefix < prefix);
        let found = entries[first..].iter().map(|entry| IndexEntry::decode(*entry));
        Ok(found.take_while(|entry| entry.prefix == prefix).collect())
    }

    /// Returns all entries of a table, in order.
    pub(crate) fn entries(&self, table: Table) -> Entries<'_> {
        Entries { segment: self, table, next: 0, buffer: Vec::new(), at: 0 }
    }

    /// Reads all entries and verifies them.
    pub(crate) fn verify_entries(&self) -> Result<(), SegmentError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let end = self.footer.filter_offset();
        let mut offset = SEGMENT_HEADER_LEN as u64;
        while offset < end {
            let len = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            self.file.read_at(offset, &mut buffer[..len])?;
            hasher.update(&buffer[..len]);
            offset += len as u64;
        }
        if *hasher.finalize().as_bytes() == self.footer.entries_hash {
            return Ok(());
        }
        Err(Flaw::new(Part::Entries, "their hash is wrong").into())
    }
}

/// All entries of a table in order, read in large pieces.
pub(crate) struct Entries<'a> {
    segment: &'a Segment,
    table: Table,
    /// Number of the entry after the buffer.
    next: u32,
    buffer: Vec<u8>,
    /// Entries of the buffer that were returned.
    at: usize,
}

impl Iterator for Entries<'_> {
    type Item = io::Result<IndexEntry>;

    fn next(&mut self) -> Option<io::Result<IndexEntry>> {
        if let Some(entry) = self.buffer.as_chunks::<INDEX_ENTRY_LEN>().0.get(self.at) {
            self.at += 1;
            return Some(Ok(IndexEntry::decode(*entry)));
        }
        let left = self.segment.table_len(self.table).checked_sub(self.next).filter(|left| *left > 0)?;
        let count = (left as usize).min(BUFFER_BYTES / INDEX_ENTRY_LEN);
        let start = self.segment.footer.table_offset(self.table);
        let offset = start + u64::from(self.next) * INDEX_ENTRY_LEN as u64;
        self.buffer.resize(count * INDEX_ENTRY_LEN, 0);
        // After a failure the rest is not to be had: the table counts as read.
        let read = self.segment.file.read_at(offset, &mut self.buffer);
        self.next = if read.is_ok() { self.next + u32::try_from(count).unwrap_or(left) } else { u32::MAX };
        self.at = 0;
        match read {
            Ok(()) => self.next(),
            Err(error) => {
                self.buffer.clear();
                Some(Err(error))
            }
        }
    }
}

/// Writes a segment in one pass.
pub(crate) struct SegmentWriter<'a> {
    file: &'a dyn StorageFile,
    packs: Vec<PackId>,
    objects: FanoutBuilder,
    blocks: FanoutBuilder,
    filter: Filter,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    offset: u64,
}

impl SegmentWriter<'_> {
    /// Begins a segment in an empty file, for at most that many entries in each table.
    pub(crate) fn begin(
        file: &dyn StorageFile,
        packs: Vec<PackId>,
        objects: u64,
        blocks: u64,
    ) -> io::Result<SegmentWriter<'_>> {
        let header = encode_segment_header();
        file.write_at(0, &header)?;
        Ok(SegmentWriter {
            file,
            packs,
            objects: Fanout::builder(objects),
            blocks: Fanout::builder(blocks),
            filter: Filter::new(blocks),
            hasher: blake3::Hasher::new(),
            buffer: Vec::with_capacity(BUFFER_BYTES),
            offset: header.len() as u64,
        })
    }

    /// Adds an entry: first all of the objects, then all of the blocks, each in order.
    pub(crate) fn add(&mut self, table: Table, entry: IndexEntry) -> io::Result<()> {
        match table {
            Table::Objects => self.objects.add(entry.prefix),
            Table::Blocks => {
                self.blocks.add(entry.prefix);
                self.filter.add(entry.prefix);
            }
        }
        self.buffer.extend_from_slice(&entry.encode());
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what finds the entries, and returns the hash that names the segment. Does not sync.
    pub(crate) fn finish(mut self) -> io::Result<blake3::Hash> {
        self.flush()?;
        let meta = Meta { packs: self.packs, objects: self.objects.finish(), blocks: self.blocks.finish() };
        let filter = self.filter.encode();
        self.file.write_at(self.offset, &filter)?;
        let mut tail = meta.encode();
        let entries_hash: [u8; HASH_LEN] = *self.hasher.finalize().as_bytes();
        let filter_hash = *blake3::hash(&filter).as_bytes();
        let footer = meta.footer(&tail, (self.filter.lines(), filter_hash), entries_hash).encode();
        tail.extend_from_slice(&footer);
        self.file.write_at(self.offset + filter.len() as u64, &tail)?;
        Ok(blake3::hash(&footer))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.file.write_at(self.offset, &self.buffer)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl From<io::Error> for SegmentError {
    fn from(error: io::Error) -> SegmentError {
        SegmentError::Io(error)
    }
}

impl From<Flaw> for SegmentError {
    fn from(flaw: Flaw) -> SegmentError {
        SegmentError::Flaw(flaw)
    }
}
