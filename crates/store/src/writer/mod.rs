//! Writes one image.
//!
//! ```text
//!   open ──put_*, attach──▶ open ──finish──▶ tables, sync, rename, sync folder ──▶ in the store
//!     │                       │
//!     └── a write fails ──────┴── dropped ──▶ part file removed
//! ```
//!
//! The caller's thread only copies pages into batches; a thread of the writer's own does the rest. Errors of that thread
//! come out of the next call.

mod back;
mod page_map;
mod queue;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use back::{Back, Finished};
use queue::{Batch, Gone, Message, Sender};

use crate::format::{
    Header, MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_NAME_LEN, MAX_SPACE_BYTES, MAX_SPACES,
};
use crate::storage::StorageFile;
use crate::store::{Shared, image_name, part_name};
use crate::{ImageId, ImageSummary, PAGE_BYTES, PAGE_SIZE, Page, SpaceIndex, StoreError, WriteOptions};

static ZERO_PAGE: Page = [0; PAGE_SIZE];

/// An image that is being written; see [`Store::create_image`](crate::Store::create_image).
///
/// Nothing is in the store before [`ImageWriter::finish`] returns; a writer that is dropped leaves nothing behind.
/// Memory: the queue's bound, and at most 24 bytes for each page of a region that has data.
pub struct ImageWriter {
    id: ImageId,
    shared: Arc<Shared>,
    /// Pages in each space.
    spaces: Vec<u64>,
    space_names: BTreeSet<String>,
    attachment_names: BTreeSet<String>,
    cancelled: Arc<AtomicBool>,
    /// None once the writer thread has ended.
    lane: Option<Lane>,
    /// Dropped after the thread has ended.
    part: PartFile,
}

/// The writer thread, and the way to it.
struct Lane {
    sender: Sender,
    /// Pages that are not sent yet.
    batch: Batch,
    thread: JoinHandle<Result<Option<Finished>, StoreError>>,
}

impl ImageWriter {
    /// Creates the part file with its header, and starts the thread.
    pub(crate) fn begin(
        shared: Arc<Shared>,
        id: ImageId,
        options: WriteOptions,
        file: Box<dyn StorageFile>,
    ) -> Result<ImageWriter, StoreError> {
        let part = PartFile { shared: Arc::clone(&shared), name: part_name(&id), is_kept: false };
        let header = Header { id: id.clone(), parent: options.parent }.encode();
        file.write_at(0, &header).map_err(|error| shared.write_failed("write", &part.name, error))?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let (sender, receiver, batch) = queue::queue(options.queue_bytes);
        let back = Back::new(Arc::clone(&shared), Arc::clone(&cancelled), part.name.clone(), header, file);
        let thread = std::thread::Builder::new()
            .name("image-writer".to_owned())
            .spawn(move || back.run(&receiver))
            .map_err(|source| StoreError::Io { op: "start a thread for", path: part.name.clone(), source })?;
        Ok(ImageWriter {
            id,
            shared,
            spaces: Vec::new(),
            space_names: BTreeSet::new(),
            attachment_names: BTreeSet::new(),
            cancelled,
            lane: Some(Lane { sender, batch, thread }),
            part,
        })
    }

    /// Returns the id that the image will have.
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    /// Adds a space of `len` bytes, a multiple of the page size; its pages are zero until they are put.
    pub fn add_space(&mut self, name: &str, len: u64) -> Result<SpaceIndex, StoreError> {
        if len > MAX_SPACE_BYTES || !len.is_multiple_of(PAGE_BYTES) {
            return Err(self.invalid(format!("space {name:?} cannot have a length of {len} bytes")));
        }
        check_name(&self.id, name, &self.space_names, MAX_SPACES as usize)?;
        // The limit of 4096 spaces was just checked.
        let index = SpaceIndex(u32::try_from(self.spaces.len()).unwrap_or(u32::MAX));
        self.send(|lane| {
            lane.flush()?;
            lane.sender.send(Message::Space { name: name.to_owned(), len })
        })?;
        self.space_names.insert(name.to_owned());
        self.spaces.push(len / PAGE_BYTES);
        Ok(index)
    }

    /// Puts the content of a page, in place of what was put there before.
    ///
    /// A page of zero bytes is stored as zero. Waits only while the queue is full.
    pub fn put_page(&mut self, space: SpaceIndex, page: u64, data: &Page) -> Result<(), StoreError> {
        if *data == ZERO_PAGE {
            return self.put_zero(space, page);
        }
        self.check_page(space, page)?;
        self.send(|lane| {
            lane.batch.push_data(space.0, page, data);
            lane.flush_if_full()
        })
    }

    /// Makes a page zero, whatever was put there before.
    pub fn put_zero(&mut self, space: SpaceIndex, page: u64) -> Result<(), StoreError> {
        self.check_page(space, page)?;
        self.send(|lane| {
            lane.batch.push_zero(space.0, page);
            lane.flush_if_full()
        })
    }

    /// Adds an attachment of at most 1 GiB under a name that no other has.
    pub fn attach(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let len = bytes.len() as u64;
        if len > MAX_ATTACHMENT_BYTES {
            return Err(self.invalid(format!("attachment {name:?} is too large: {len} bytes")));
        }
        check_name(&self.id, name, &self.attachment_names, MAX_ATTACHMENTS as usize)?;
        self.send(|lane| {
            lane.flush()?;
            lane.sender.send(Message::Attachment { name: name.to_owned(), len })?;
            lane.exchange(|sender, batch| sender.send_bytes(batch, bytes))
        })?;
        self.attachment_names.insert(name.to_owned());
        Ok(())
    }

    /// Completes the image.
    ///
    /// When this returns a summary, the image is in the store and durable: its file synced, renamed, the folder synced.
    /// When it fails, the image is not in the store; after a crash in between, it may be there, and is whole then.
    pub fn finish(mut self) -> Result<ImageSummary, StoreError> {
        self.send(|lane| {
            lane.flush()?;
            lane.sender.send(Message::Finish)
        })?;
        let Some(Lane { sender, batch: _, thread }) = self.lane.take() else {
            return Err(StoreError::Latched);
        };
        let finished = join(thread)?.ok_or(StoreError::Latched)?;
        drop(sender);
        self.publish()?;
        self.part.is_kept = true;
        drop(finished.file);
        Ok(ImageSummary {
            id: self.id.clone(),
            bytes: finished.space_bytes,
            zero_bytes: finished.space_bytes - finished.data_bytes,
            new_bytes: finished.data_bytes,
            stored_bytes: finished.file_bytes,
        })
    }

    /// Gives the complete file its final name, durably.
    fn publish(&self) -> Result<(), StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let name = image_name(&self.id);
        storage
            .rename(&self.part.name, &name)
            .map_err(|error| self.shared.write_failed("rename", &self.part.name, error))?;
        storage.sync_dir().map_err(|error| {
            // The caller is told that there is no image, so there should be none.
            let _ = storage.remove(&name);
            self.shared.write_failed("sync the folder of", &name, error)
        })
    }

    fn check_page(&self, space: SpaceIndex, page: u64) -> Result<(), StoreError> {
        match self.spaces.get(space.position()) {
            Some(&pages) if page < pages => Ok(()),
            Some(pages) => Err(self.invalid(format!("page {page} of a space of {pages} pages"))),
            None => Err(self.invalid(format!("no space {}", space.position()))),
        }
    }

    /// Lets `action` talk to the writer thread; if that has failed, its error is the result.
    fn send(&mut self, action: impl FnOnce(&mut Lane) -> Result<(), Gone>) -> Result<(), StoreError> {
        let lane = self.lane.as_mut().filter(|_| !self.shared.is_latched());
        match lane.map(action) {
            Some(Ok(())) => Ok(()),
            Some(Err(Gone)) | None => Err(self.stop()),
        }
    }

    /// Ends the writer thread and returns the error that it met; another writer's failure is [`StoreError::Latched`].
    fn stop(&mut self) -> StoreError {
        self.cancelled.store(true, Ordering::Relaxed);
        let Some(Lane { sender, batch: _, thread }) = self.lane.take() else { return StoreError::Latched };
        drop(sender);
        join(thread).err().unwrap_or(StoreError::Latched)
    }

    fn invalid(&self, what: String) -> StoreError {
        StoreError::invalid(&self.id, what)
    }
}

impl fmt::Debug for ImageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageWriter")
            .field("id", &self.id)
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if let Some(Lane { sender, batch: _, thread }) = self.lane.take() {
            drop(sender);
            // Its result no longer matters to anyone.
            let _ = thread.join();
        }
    }
}

impl Lane {
    fn flush_if_full(&mut self) -> Result<(), Gone> {
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.exchange(Sender::send_pages)
    }

    /// Gives the batch away for another one.
    fn exchange(&mut self, send: impl FnOnce(&mut Sender, Batch) -> Result<Batch, Gone>) -> Result<(), Gone> {
        let batch = std::mem::take(&mut self.batch);
        self.batch = send(&mut self.sender, batch)?;
        Ok(())
    }
}

/// The file of an image that is not complete; removed when dropped, unless it has got its final name.
struct PartFile {
    shared: Arc<Shared>,
    name: String,
    is_kept: bool,
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is found by the next sweep.
            let _ = self.shared.storage.remove(&self.name);
        }
    }
}

fn join<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn check_name(image: &ImageId, name: &str, taken: &BTreeSet<String>, max: usize) -> Result<(), StoreError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(StoreError::invalid(
            image,
            format!("a name has 1 to {MAX_NAME_LEN} bytes, not {name:?}"),
        ));
    }
    if taken.contains(name) {
        return Err(StoreError::invalid(image, format!("the name {name:?} is taken")));
    }
    if taken.len() >= max {
        return Err(StoreError::invalid(image, format!("no more than {max} names, so not {name:?}")));
    }
    Ok(())
}
