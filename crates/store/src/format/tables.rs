//! The tables of an image: which slot holds which page, and where the attachments lie.
//!
//! Decoded tables keep the entries of pages as the bytes they came as, 20 for each data page, and an index of 24 bytes
//! for each extent.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::ops::Range;

use super::cursor::Cursor;
use super::{Flaw, Footer, HEADER_LEN, MAX_ATTACHMENT_BYTES, MAX_SPACE_BYTES, PAGE_BYTES, PageHash};
use crate::Part;

/// Most spaces in an image.
pub(crate) const MAX_SPACES: u32 = 4096;
/// Most attachments in an image.
pub(crate) const MAX_ATTACHMENTS: u32 = 4096;
/// Longest name of a space or an attachment in bytes.
pub(crate) const MAX_NAME_LEN: usize = 255;

/// Bytes of a page's entry: slot and hash.
const ENTRY_LEN: usize = 20;
/// Least bytes of an extent: its first page, its count and one entry.
const MIN_EXTENT_LEN: usize = 12 + ENTRY_LEN;
/// Least bytes of a space: a name of one byte, its length, a count of extents.
const MIN_SPACE_LEN: usize = 2 + 1 + 8 + 4;
/// Least bytes of an attachment: a name of one byte, offset, length, hash.
const MIN_ATTACHMENT_LEN: usize = 2 + 1 + 8 + 8 + 32;

/// Where a data page lies, and what it must hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageEntry {
    pub(crate) slot: u32,
    pub(crate) hash: PageHash,
}

/// An attachment's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) hash: [u8; 32],
}

/// A run of pages that are all zero, or all data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Zero(Range<u64>),
    Data(Range<u64>, Entries<'a>),
}

/// Entries of consecutive data pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    pub(crate) fn iter(self) -> impl Iterator<Item = PageEntry> + 'a {
        self.0.as_chunks::<ENTRY_LEN>().0.iter().map(|bytes| {
            let (slot, hash) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
            PageEntry {
                slot: u32::from_le_bytes(*slot),
                hash: hash.first_chunk().copied().unwrap_or_default(),
            }
        })
    }
}

/// One space with the places of its data pages.
#[derive(Debug)]
pub(crate) struct SpaceTable {
    pub(crate) name: String,
    pub(crate) len: u64,
    extents: Vec<Extent>,
}

impl SpaceTable {
    pub(crate) fn pages(&self) -> u64 {
        self.len / PAGE_BYTES
    }

    /// Returns the runs of data pages, ascending, with zero pages between any two of them.
    pub(crate) fn data_runs(&self) -> impl Iterator<Item = Range<u64>> {
        self.extents.iter().map(Extent::pages)
    }
}

/// A run of data pages: `count` pages from `first`, whose entries begin at `entries` in the raw tables.
#[derive(Debug)]
struct Extent {
    first: u64,
    count: u32,
    entries: usize,
}

impl Extent {
    fn pages(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.count)
    }
}

/// Decoded tables of one image.
#[derive(Debug)]
pub(crate) struct Tables {
    raw: Vec<u8>,
    pub(crate) spaces: Vec<SpaceTable>,
    pub(crate) attachments: Vec<Attachment>,
}

impl Tables {
    /// Decodes the tables that `footer` describes; checks their hash and every field.
    pub(crate) fn decode(raw: Vec<u8>, footer: &Footer) -> Result<Tables, Flaw> {
        if *blake3::hash(&raw).as_bytes() != footer.tables_hash {
            return Err(Flaw::new(Part::Tables, "their hash is wrong"));
        }
        let mut cursor = Cursor::new(Part::Tables, &raw);
        let mut names = BTreeSet::new();
        let mut data_pages = 0;
        let count = cursor.count(MAX_SPACES, MIN_SPACE_LEN, "number of spaces")?;
        let mut spaces = Vec::with_capacity(count);
        for _ in 0..count {
            let space = decode_space(&mut cursor, footer.slots(), &mut data_pages)?;
            if !names.insert(space.name.clone()) {
                return Err(cursor.flaw(format_args!("there are two spaces {:?}", space.name)));
            }
            spaces.push(space);
        }
        if data_pages != footer.data_pages {
            return Err(cursor.flaw(format_args!("{data_pages} data pages, not {}", footer.data_pages)));
        }
        names.clear();
        let count = cursor.count(MAX_ATTACHMENTS, MIN_ATTACHMENT_LEN, "number of attachments")?;
        let mut attachments = Vec::with_capacity(count);
        for _ in 0..count {
            let attachment = decode_attachment(&mut cursor, footer.tables_offset)?;
            if !names.insert(attachment.name.clone()) {
                return Err(cursor.flaw(format_args!("there are two attachments {:?}", attachment.name)));
            }
            attachments.push(attachment);
        }
        cursor.end()?;
        Ok(Tables { raw, spaces, attachments })
    }

    /// Cuts `pages` of `space` into runs that are zero or data; pages beyond the space's end are zero.
    pub(crate) fn pieces<'a>(
        &'a self,
        space: &'a SpaceTable,
        pages: Range<u64>,
    ) -> impl Iterator<Item = Piece<'a>> {
        let from = space.extents.partition_point(|extent| extent.pages().end <= pages.start);
        let mut extents = space.extents.get(from..).unwrap_or_default().iter().peekable();
        let mut next = pages.start;
        std::iter::from_fn(move || {
            if next >= pages.end {
                return None;
            }
            let start = next;
            let data = extents.next_if(|extent| extent.first <= start);
            next = match data {
                Some(extent) => extent.pages().end.min(pages.end),
                None => extents.peek().map_or(pages.end, |extent| extent.first.min(pages.end)),
            };
            Some(match data {
                Some(extent) => Piece::Data(start..next, self.entries(extent, start..next)),
                None => Piece::Zero(start..next),
            })
        })
    }

    fn entries(&self, extent: &Extent, pages: Range<u64>) -> Entries<'_> {
        let position = |page: u64| usize::try_from(page - extent.first).unwrap_or(usize::MAX);
        let byte = |page: u64| extent.entries.saturating_add(position(page).saturating_mul(ENTRY_LEN));
        Entries(self.raw.get(byte(pages.start)..byte(pages.end)).unwrap_or_default())
    }
}

fn decode_space(cursor: &mut Cursor<'_>, slots: u32, data_pages: &mut u64) -> Result<SpaceTable, Flaw> {
    let name = cursor.name("name of a space")?.to_owned();
    let len = cursor.u64("length of a space")?;
    if len > MAX_SPACE_BYTES || !len.is_multiple_of(PAGE_BYTES) {
        return Err(cursor.flaw(format_args!("space {name:?} has a length of {len}")));
    }
    let count = cursor.count(u32::MAX, MIN_EXTENT_LEN, "number of extents")?;
    let mut extents: Vec<Extent> = Vec::with_capacity(count);
    for _ in 0..count {
        let first = cursor.u64("first page of an extent")?;
        let pages = cursor.count(u32::MAX, ENTRY_LEN, "pages of an extent")?;
        let entries = cursor.offset();
        let raw = Entries(cursor.bytes(pages * ENTRY_LEN, "entries of an extent")?);
        if let Some(entry) = raw.iter().find(|entry| entry.slot >= slots) {
            return Err(cursor.flaw(format_args!("slot {} is not among {slots}", entry.slot)));
        }
        let after_gap = extents.last().is_none_or(|last| first > last.pages().end);
        let end = first.checked_add(pages as u64);
        let extent = Extent { first, count: u32::try_from(pages).unwrap_or(u32::MAX), entries };
        if pages == 0 || !after_gap || end.is_none_or(|end| end > len / PAGE_BYTES) {
            return Err(cursor.flaw(format_args!("{pages} pages from {first} are out of place in {name:?}")));
        }
        *data_pages += pages as u64;
        extents.push(extent);
    }
    Ok(SpaceTable { name, len, extents })
}

fn decode_attachment(cursor: &mut Cursor<'_>, slots_end: u64) -> Result<Attachment, Flaw> {
    let name = cursor.name("name of an attachment")?.to_owned();
    let (offset, len) = (cursor.u64("offset of an attachment")?, cursor.u64("length of an attachment")?);
    let hash = cursor.array("hash of an attachment")?;
    let fits = offset.checked_add(len).is_some_and(|end| end <= slots_end);
    if offset < HEADER_LEN || !offset.is_multiple_of(PAGE_BYTES) || len > MAX_ATTACHMENT_BYTES || !fits {
        return Err(cursor.flaw(format_args!("attachment {name:?} lies at {offset}, {len} bytes")));
    }
    Ok(Attachment { name, offset, len, hash })
}

/// Writes tables, field by field, into a growing buffer.
pub(crate) mod encode {
    use super::{Attachment, PageEntry};

    pub(crate) fn count(out: &mut Vec<u8>, count: usize) {
        // Every count is bounded by the writer: spaces and attachments by 4096, extents and pages by 2^31.
        out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(crate) fn space(out: &mut Vec<u8>, name: &str, len: u64, extents: usize) {
        self::name(out, name);
        out.extend_from_slice(&len.to_le_bytes());
        count(out, extents);
    }

    pub(crate) fn extent(out: &mut Vec<u8>, first: u64, pages: usize) {
        out.extend_from_slice(&first.to_le_bytes());
        count(out, pages);
    }

    pub(crate) fn entry(out: &mut Vec<u8>, entry: &PageEntry) {
        out.extend_from_slice(&entry.slot.to_le_bytes());
        out.extend_from_slice(&entry.hash);
    }

    pub(crate) fn attachment(out: &mut Vec<u8>, attachment: &Attachment) {
        name(out, &attachment.name);
        out.extend_from_slice(&attachment.offset.to_le_bytes());
        out.extend_from_slice(&attachment.len.to_le_bytes());
        out.extend_from_slice(&attachment.hash);
    }

    fn name(out: &mut Vec<u8>, name: &str) {
        // Names are at most 255 bytes long.
        out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(extents: &[(u64, usize)], len: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode::count(&mut out, 1);
        encode::space(&mut out, "ram", len, extents.len());
        let mut slot = 0;
        for &(first, pages) in extents {
            encode::extent(&mut out, first, pages);
            for _ in 0..pages {
                encode::entry(&mut out, &PageEntry { slot, hash: [slot.to_le_bytes()[0]; 16] });
                slot += 1;
            }
        }
        encode::count(&mut out, 0);
        out
    }

    fn decode(raw: Vec<u8>, slots: u64, data_pages: u64) -> Result<Tables, Flaw> {
        let tables_hash = *blake3::hash(&raw).as_bytes();
        let tables_offset = HEADER_LEN + slots * PAGE_BYTES;
        let footer = Footer { tables_offset, tables_len: raw.len() as u64, data_pages, tables_hash };
        Tables::decode(raw, &footer)
    }

    // Reads cross the edges of extents in every way; a page must never get a neighbour's entry.
    #[test]
    fn pieces_cover_any_range_exactly() {
        let extents = [(1, 2), (5, 1), (7, 3)];
        let tables = decode(raw(&extents, 12 * 4096), 6, 6).expect("sound tables");
        let space = tables.spaces.first().expect("one space");
        let model =
            [None, Some(0), Some(1), None, None, Some(2), None, Some(3), Some(4), Some(5), None, None];
        for start in 0..12_usize {
            for end in start..=12 {
                let mut found = Vec::new();
                for piece in tables.pieces(space, start as u64..end as u64) {
                    match piece {
                        Piece::Zero(pages) => found.extend(pages.map(|_| None)),
                        Piece::Data(pages, entries) => {
                            assert_eq!(pages.count(), entries.iter().count());
                            found.extend(entries.iter().map(|entry| Some(entry.slot)));
                        }
                    }
                }
                assert_eq!(found, model[start..end], "{start}..{end}");
            }
        }
    }

    // With a right hash a wrong field is still found: a writer's bug, or a forged file.
    #[test]
    fn misplaced_extents_and_slots_are_refused() {
        let touching = ("touching extents", vec![(0, 1), (1, 1)], 2);
        let descending = ("descending extents", vec![(5, 1), (1, 1)], 2);
        let beyond = ("beyond the space", vec![(11, 2)], 2);
        let overflowing = ("overflowing", vec![(u64::MAX, 1)], 1);
        let empty = ("an empty extent", vec![(1, 0), (3, 2)], 2);
        let slot = ("slot out of range", vec![(0, 3)], 2);
        for (case, extents, slots) in [touching, descending, beyond, overflowing, empty, slot] {
            let data_pages: u64 = extents.iter().map(|&(_, pages)| pages as u64).sum();
            let result = decode(raw(&extents, 12 * 4096), slots, data_pages.min(slots));
            assert!(matches!(result, Err(Flaw::Damaged(Part::Tables, _))), "{case}: {result:?}");
        }
    }

    // A count that the bytes have no room for must be refused before memory is reserved for it.
    #[test]
    fn counts_are_bounded_by_the_bytes_that_are_there() {
        let mut bytes = Vec::new();
        encode::count(&mut bytes, 1);
        encode::space(&mut bytes, "ram", 1 << 40, 0xffff_fff0);
        bytes.resize(100, 0);
        let Err(Flaw::Damaged(_, place)) = decode(bytes, 1, 0) else { panic!("refused") };
        assert!(place.contains("number of extents of 4294967280 is too large"), "{place}");
    }
}
