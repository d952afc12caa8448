//! Makes segments: from the directories of packs, and from other segments.
//!
//! A segment is written under a temporary name, synced, and renamed to the hash of its footer, so that two processes that
//! make the same one write the same file. Where it cannot be written it is kept in memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::segment::{Segment, SegmentError, SegmentWriter};
use crate::error::StoreError;
use crate::format::segment::{IndexEntry, Table};
use crate::hash::PackId;
use crate::pack::PackFile;
use crate::shared::{SEGMENT_PART_SUFFIX, Shared, segment_name};
use crate::storage::StorageFile;

/// Holds the place of the one merge that may be under way.
const MERGE_PART: &str = "merge.index.part";

/// A segment with the name of its file; none for one in memory.
#[derive(Clone)]
pub(super) struct NamedSegment {
    pub(super) name: Option<String>,
    pub(super) segment: Arc<Segment>,
}

/// Both tables of a segment that is to be written, in any order.
#[derive(Debug, Default)]
struct Hints {
    packs: Vec<PackId>,
    objects: Vec<IndexEntry>,
    blocks: Vec<IndexEntry>,
}

/// Makes a segment of packs; one that is not there, or cannot be read, is left out.
///
/// Returns none where nothing is left.
pub(super) fn from_packs(shared: &Arc<Shared>, packs: &[PackId]) -> Result<Option<NamedSegment>, StoreError> {
    let mut hints = Hints::default();
    for &id in packs {
        match PackFile::open(shared, id) {
            Ok(Some(pack)) => hints.add_pack(&pack)?,
            Ok(None) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    if hints.packs.is_empty() {
        return Ok(None);
    }
    hints.objects.sort_unstable();
    hints.blocks.sort_unstable();
    let part = shared.temporary_name(SEGMENT_PART_SUFFIX);
    if let Ok(written) = write_file(shared, &part, |file| hints.write(file)) {
        return Ok(Some(written));
    }
    // The index is a cache: a full or read-only storage must not keep anyone from reading.
    let memory = Box::new(MemoryFile::default());
    let failed = |error| shared.failed("make an index segment of", "packs", error);
    hints.write(&*memory).map_err(failed)?;
    match Segment::open(memory) {
        Ok(segment) => Ok(Some(NamedSegment { name: None, segment: Arc::new(segment) })),
        Err(SegmentError::Io(error)) => Err(failed(error)),
        Err(SegmentError::Flaw(_)) => Err(failed(io::ErrorKind::InvalidData.into())),
    }
}

/// Merges segments into one, without what is in packs that `is_there` denies; the inputs are left.
///
/// Returns none while another process merges. The caller has verified the inputs' entries.
pub(super) fn merge(
    shared: &Arc<Shared>,
    segments: &[NamedSegment],
    is_there: impl Fn(&PackId) -> bool,
) -> Result<Option<NamedSegment>, SegmentError> {
    let merged = write_file(shared, MERGE_PART, |file| write_merged(file, segments, is_there));
    match merged {
        Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        merged => merged.map(Some),
    }
}

impl Hints {
    fn add_pack(&mut self, pack: &PackFile) -> Result<(), StoreError> {
        // Whoever has more than 4 billion packs has other worries.
        let position = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let hint = |prefix, place| IndexEntry { prefix, pack: position, place };
        pack.each_entry(|number, entry, hashes| {
            self.objects.push(hint(entry.hash.prefix(), number.0));
            for (slot, hash) in (0..=u8::MAX).zip(hashes) {
                self.blocks.push(hint(hash.prefix(), IndexEntry::block_place(number, slot)));
            }
        })?;
        self.packs.push(pack.id());
        Ok(())
    }

    fn write(&self, file: &dyn StorageFile) -> io::Result<blake3::Hash> {
        let (objects, blocks) = (self.objects.len() as u64, self.blocks.len() as u64);
        let mut writer = SegmentWriter::begin(file, self.packs.clone(), objects, blocks)?;
        for entry in &self.objects {
            writer.add(Table::Objects, *entry)?;
        }
        for entry in &self.blocks {
            writer.add(Table::Blocks, *entry)?;
        }
        writer.finish()
    }
}

/// Writes a segment under the name `part`, syncs it and gives it its final name. A failure leaves nothing.
fn write_file(
    shared: &Arc<Shared>,
    part: &str,
    write: impl FnOnce(&dyn StorageFile) -> io::Result<blake3::Hash>,
) -> Result<NamedSegment, SegmentError> {
    let storage = &shared.storage;
    let file = shared.create_part(part)?;
    let written = write(&*file).and_then(|hash| {
        file.sync()?;
        let name = segment_name(&hash);
        storage.rename(part, &name)?;
        Ok(name)
    });
    match written {
        Ok(name) => {
            let segment = Arc::new(Segment::open(storage.open(&name)?)?);
            Ok(NamedSegment { name: Some(name), segment })
        }
        Err(error) => {
            // What stays is swept later as a part file without a writer.
            let _ = storage.remove(part);
            Err(error.into())
        }
    }
}

fn write_merged(
    file: &dyn StorageFile,
    segments: &[NamedSegment],
    is_there: impl Fn(&PackId) -> bool,
) -> io::Result<blake3::Hash> {
    let mut packs = Vec::new();
    let mut positions = HashMap::new();
    for id in segments.iter().flat_map(|input| input.segment.packs()).filter(|id| is_there(id)) {
        positions.entry(*id).or_insert_with(|| {
            packs.push(*id);
            u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
        });
    }
    let total = |table| segments.iter().map(|input| u64::from(input.segment.table_len(table))).sum();
    let mut writer = SegmentWriter::begin(file, packs, total(Table::Objects), total(Table::Blocks))?;
    for table in [Table::Objects, Table::Blocks] {
        merge_table(&mut writer, segments, table, &positions)?;
    }
    writer.finish()
}

fn merge_table(
    writer: &mut SegmentWriter<'_>,
    segments: &[NamedSegment],
    table: Table,
    positions: &HashMap<PackId, u32>,
) -> io::Result<()> {
    let mut inputs: Vec<_> = segments.iter().map(|input| input.segment.entries(table)).collect();
    let mut heap = BinaryHeap::new();
    let mut next_of = |input: usize| -> io::Result<Option<IndexEntry>> {
        for entry in inputs[input].by_ref() {
            let entry = entry?;
            let pack = segments[input].segment.pack(entry);
            if let Some(&pack) = pack.and_then(|id| positions.get(&id)) {
                return Ok(Some(IndexEntry { pack, ..entry }));
            }
        }
        Ok(None)
    };
    for input in 0..segments.len() {
        heap.extend(next_of(input)?.map(|entry| Reverse((entry.prefix, input, entry))));
    }
    let mut last = None;
    while let Some(Reverse((_, input, entry))) = heap.pop() {
        // Two segments can cover one pack.
        if last != Some(entry) {
            writer.add(table, entry)?;
        }
        last = Some(entry);
        heap.extend(next_of(input)?.map(|entry| Reverse((entry.prefix, input, entry))));
    }
    Ok(())
}

/// A file in memory, for segments that the storage does not take.
#[derive(Debug, Default)]
struct MemoryFile {
    content: Mutex<Vec<u8>>,
}

impl StorageFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = content.get(start..start.saturating_add(buf.len()));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(data.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
