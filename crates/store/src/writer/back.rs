//! The writer thread: hashes pages, gives them slots, writes behind, and completes the file.
//!
//! New pages of a batch get consecutive slots and go out in one write. Every [`WRITEBACK_BYTES`] the system is told to
//! start writing to the disk, so that the sync at the end finds little left to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::page_map::{MAX_SLOTS, PageMap};
use super::queue::{Batch, Message, Receiver};
use crate::format::{self, Attachment, FOOTER_LEN, Footer, HEADER_LEN, PageEntry, PageHash, slot_offset};
use crate::storage::StorageFile;
use crate::store::Shared;
use crate::{PAGE_BYTES, PAGE_SIZE, StoreError};

/// Written bytes after which the system is told to start writing them to the disk.
const WRITEBACK_BYTES: u64 = 32 << 20;
/// Bytes of tables that are written at once.
const TABLES_BUFFER: usize = 1 << 20;

/// A complete, synced file that has not got its final name yet.
pub(super) struct Finished {
    /// Sum of the lengths of all spaces.
    pub(super) space_bytes: u64,
    pub(super) data_bytes: u64,
    pub(super) file_bytes: u64,
    /// Keeps the file held until it has its final name.
    pub(super) file: Box<dyn StorageFile>,
}

struct Space {
    name: String,
    len: u64,
    map: PageMap,
}

/// State of the writer thread.
pub(super) struct Back {
    pub(super) shared: Arc<Shared>,
    /// Set when the image is given up: what is queued is dropped.
    pub(super) cancelled: Arc<AtomicBool>,
    /// Name of the file, for messages.
    pub(super) name: String,
    pub(super) header: Vec<u8>,
    pub(super) file: Box<dyn StorageFile>,
    spaces: Vec<Space>,
    attachments: Vec<Attachment>,
    /// The last attachment, while its bytes are coming.
    incoming: Option<Incoming>,
    next_slot: u32,
    /// Slots of pages that became zero.
    free_slots: Vec<u32>,
    /// End of what the system was told to write to the disk.
    written_back: u64,
}

struct Incoming {
    entry: Attachment,
    received: u64,
    hasher: blake3::Hasher,
}

impl Back {
    pub(super) fn new(
        shared: Arc<Shared>,
        cancelled: Arc<AtomicBool>,
        name: String,
        header: Vec<u8>,
        file: Box<dyn StorageFile>,
    ) -> Back {
        Back {
            shared,
            cancelled,
            name,
            header,
            file,
            spaces: Vec::new(),
            attachments: Vec::new(),
            incoming: None,
            next_slot: 0,
            free_slots: Vec::new(),
            written_back: 0,
        }
    }

    /// Works until the file is complete, a write fails, or the image is given up (then there is no result).
    pub(super) fn run(mut self, queue: &Receiver) -> Result<Option<Finished>, StoreError> {
        while let Some(message) = queue.next() {
            if self.cancelled.load(Ordering::Relaxed) {
                break;
            }
            match message {
                Message::Space { name, len } => {
                    self.spaces.push(Space { name, len, map: PageMap::default() });
                }
                Message::Pages(mut batch) => {
                    self.put_pages(&mut batch)?;
                    queue.give_back(batch);
                }
                Message::Attachment { name, len } => self.begin_attachment(name, len)?,
                Message::Bytes(batch) => {
                    self.put_bytes(&batch.data)?;
                    queue.give_back(batch);
                }
                Message::Finish => return self.complete().map(Some),
            }
        }
        Ok(None)
    }

    fn put_pages(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.compute_hashes();
        let mut hashes = batch.hashes().iter();
        // Pages in `run` follow each other in the batch and in the file.
        let mut run = Run { slot: 0, first: 0, count: 0 };
        for item in &batch.items {
            let map = &mut self.spaces[item.space as usize].map;
            if !item.is_data {
                self.free_slots.extend(map.clear(item.page));
                continue;
            }
            let Some(&hash) = hashes.next() else { break };
            let slot = self.place(item.space, item.page, hash)?;
            if run.slot.checked_add(run.count) != Some(slot) {
                self.write_run(&run, &batch.data)?;
                run = Run { slot, first: run.first + run.count as usize, count: 0 };
            }
            run.count += 1;
        }
        self.write_run(&run, &batch.data)?;
        self.write_back();
        Ok(())
    }

    /// Gives a data page a slot: its own, one that is free, or a new one.
    fn place(&mut self, space: u32, page: u64, hash: PageHash) -> Result<u32, StoreError> {
        let own = self.spaces[space as usize].map.get(page).map(|entry| entry.slot);
        let slot = match own.or_else(|| self.free_slots.pop()) {
            Some(slot) => slot,
            None => self.new_slots(1)?,
        };
        self.spaces[space as usize].map.set(page, PageEntry { slot, hash });
        Ok(slot)
    }

    /// Takes `count` new consecutive slots; returns the first.
    fn new_slots(&mut self, count: u32) -> Result<u32, StoreError> {
        let first = self.next_slot;
        match first.checked_add(count) {
            Some(next) if next < MAX_SLOTS => self.next_slot = next,
            _ => return Err(self.failed("extend", std::io::ErrorKind::FileTooLarge.into())),
        }
        Ok(first)
    }

    fn write_run(&self, run: &Run, data: &[u8]) -> Result<(), StoreError> {
        if run.count == 0 {
            return Ok(());
        }
        let from = run.first * PAGE_SIZE;
        let len = run.count as usize * PAGE_SIZE;
        self.write(slot_offset(run.slot), &data[from..from + len])
    }

    fn begin_attachment(&mut self, name: String, len: u64) -> Result<(), StoreError> {
        // At most 2^30 bytes, so 2^18 slots.
        let slots = u32::try_from(len.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        let offset = slot_offset(self.new_slots(slots)?);
        let entry = Attachment { name, offset, len, hash: [0; 32] };
        self.incoming = Some(Incoming { entry, received: 0, hasher: blake3::Hasher::new() });
        self.end_attachment_if_whole();
        Ok(())
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        incoming.hasher.update(bytes);
        let offset = incoming.entry.offset + incoming.received;
        incoming.received += bytes.len() as u64;
        self.write(offset, bytes)?;
        self.end_attachment_if_whole();
        self.write_back();
        Ok(())
    }

    fn end_attachment_if_whole(&mut self) {
        if let Some(incoming) = self.incoming.take_if(|incoming| incoming.received == incoming.entry.len) {
            let hash = *incoming.hasher.finalize().as_bytes();
            self.attachments.push(Attachment { hash, ..incoming.entry });
        }
    }

    /// Writes tables and footer, then syncs the file.
    fn complete(self) -> Result<Finished, StoreError> {
        let data_pages = self.spaces.iter().map(|space| space.map.data_pages()).sum::<u64>();
        let tables_offset = slot_offset(self.next_slot);
        let (tables_len, tables_hash) = self.write_tables(tables_offset)?;
        let footer = Footer { tables_offset, tables_len, data_pages, tables_hash };
        self.write(tables_offset + tables_len, &footer.encode(&self.header))?;
        self.file.sync().map_err(|error| self.failed("sync", error))?;
        Ok(Finished {
            space_bytes: self.spaces.iter().map(|space| space.len).sum(),
            data_bytes: data_pages * PAGE_BYTES,
            file_bytes: tables_offset + tables_len + FOOTER_LEN,
            file: self.file,
        })
    }

    fn write_tables(&self, offset: u64) -> Result<(u64, [u8; 32]), StoreError> {
        let mut sink = TablesSink { back: self, offset, buffer: Vec::new(), hasher: blake3::Hasher::new() };
        format::encode::count(&mut sink.buffer, self.spaces.len());
        for space in &self.spaces {
            format::encode::space(&mut sink.buffer, &space.name, space.len, space.map.runs().count());
            for run in space.map.runs() {
                // A space has at most 2^31 pages.
                let pages = usize::try_from(run.end - run.start).unwrap_or(usize::MAX);
                format::encode::extent(&mut sink.buffer, run.start, pages);
                for entry in run.filter_map(|page| space.map.get(page)) {
                    format::encode::entry(&mut sink.buffer, &entry);
                    sink.flush_over(TABLES_BUFFER)?;
                }
            }
        }
        format::encode::count(&mut sink.buffer, self.attachments.len());
        for attachment in &self.attachments {
            format::encode::attachment(&mut sink.buffer, attachment);
        }
        sink.flush_over(0)?;
        Ok((sink.offset - offset, *sink.hasher.finalize().as_bytes()))
    }

    /// Tells the system to start writing what is new at the end of the file.
    fn write_back(&mut self) {
        let end = slot_offset(self.next_slot);
        let from = self.written_back.max(HEADER_LEN);
        if end - from >= WRITEBACK_BYTES {
            // A hint only: a failure to write shows in the sync.
            let _ = self.file.start_writeback(from, end - from);
            self.written_back = end;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        self.file.write_at(offset, data).map_err(|error| self.failed("write", error))
    }

    fn failed(&self, op: &'static str, error: std::io::Error) -> StoreError {
        self.shared.write_failed(op, &self.name, error)
    }
}

/// Consecutive slots, and the position of the first one's page among the data pages of a batch.
struct Run {
    slot: u32,
    first: usize,
    count: u32,
}

/// Buffers, hashes and writes the tables.
struct TablesSink<'a> {
    back: &'a Back,
    offset: u64,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl TablesSink<'_> {
    /// Writes what is buffered if that is more than `limit` bytes.
    fn flush_over(&mut self, limit: usize) -> Result<(), StoreError> {
        if self.buffer.len() > limit {
            self.hasher.update(&self.buffer);
            self.back.write(self.offset, &self.buffer)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}
