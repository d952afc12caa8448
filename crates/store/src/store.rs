//! The store: a set of images in a [`Storage`].
//!
//! An image is there under its final name, whole, or not at all; what is being written has a name of its own
//! (`ID.image.part`) and is held by its writer. Clones of a `Store` are one store: they share the latch that the first
//! failed write closes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::storage::{Storage, StorageFile};
use crate::{ImageId, ImageReader, ImageWriter, StoreError};

const IMAGE_SUFFIX: &str = ".image";
const PART_SUFFIX: &str = ".image.part";

/// Default of [`WriteOptions::queue_bytes`].
const DEFAULT_QUEUE_BYTES: usize = 64 << 20;

/// A set of images.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// How an image is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// Image that this one was made after, where unchanged pages are to be looked for first.
    ///
    /// It is recorded; in this format every image is whole by itself.
    pub parent: Option<ImageId>,
    /// Bound of the queue to the writer thread in bytes; two buffers, 2.3 MiB, at least.
    pub queue_bytes: usize,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { parent: None, queue_bytes: DEFAULT_QUEUE_BYTES }
    }
}

/// Sizes of a complete image in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The image.
    pub id: ImageId,
    /// All spaces together.
    pub bytes: u64,
    /// Pages that are zero.
    pub zero_bytes: u64,
    /// Pages that were not in the store before; in this format, all pages that are not zero.
    pub new_bytes: u64,
    /// What the image takes in the storage.
    pub stored_bytes: u64,
}

/// What [`Store::sweep`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Images whose unfinished files were removed.
    pub removed: Vec<ImageId>,
    /// Bytes of those files.
    pub freed_bytes: u64,
    /// Unfinished files that were left, because a writer holds them or the caller wants them kept.
    pub kept: usize,
}

/// What a store's clones, readers and writers share.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    latched: AtomicBool,
}

impl Shared {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Shared {
        Shared { storage, latched: AtomicBool::new(false) }
    }

    pub(crate) fn is_latched(&self) -> bool {
        self.latched.load(Ordering::Relaxed)
    }

    /// Latches the store closed, and describes the failure.
    pub(crate) fn write_failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        self.latched.store(true, Ordering::Relaxed);
        self.failed(op, name, source)
    }

    /// Creates a file under a temporary name and holds it; one that has lost its writer is replaced.
    ///
    /// A failure latches the store.
    pub(crate) fn create_part(&self, name: &str) -> Result<Box<dyn StorageFile>, StoreError> {
        let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        let created = match self.storage.create(name) {
            Err(error) if is_taken(&error) => {
                self.storage.remove_abandoned(name).and_then(|_| self.storage.create(name))
            }
            created => created,
        };
        created.map_err(|error| self.write_failed("create", name, error))
    }

    pub(crate) fn failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::io(&*self.storage, op, name, source)
    }
}

impl Store {
    /// Opens the store in `storage`, which may be empty. Nothing is written, and no image is read.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Store, StoreError> {
        let store = Store { shared: Arc::new(Shared::new(storage)) };
        store.names()?;
        Ok(store)
    }

    /// Begins an image under an id that no image has.
    pub fn create_image(&self, id: ImageId, options: WriteOptions) -> Result<ImageWriter, StoreError> {
        if self.latched() {
            return Err(StoreError::Latched);
        }
        let file = self.create_part(&id)?;
        // Looked up after the part file is held: a writer before us has either got its final name by now or none.
        if self.names()?.contains(&image_name(&id)) {
            let _ = self.shared.storage.remove(&part_name(&id));
            return Err(StoreError::Exists { image: id });
        }
        ImageWriter::begin(Arc::clone(&self.shared), id, options, file)
    }

    /// Opens a complete image; its header, footer and tables are read and verified, its data is not.
    pub fn open_image(&self, id: &ImageId) -> Result<ImageReader, StoreError> {
        let name = image_name(id);
        match self.shared.storage.open(&name) {
            Ok(file) => ImageReader::load(Arc::clone(&self.shared), id, file),
            Err(error) if is_missing(&error) => Err(StoreError::NotFound { image: id.clone() }),
            Err(error) => Err(self.shared.failed("open", &name, error)),
        }
    }

    /// Lists the complete images, sorted by id.
    pub fn images(&self) -> Result<Vec<ImageId>, StoreError> {
        let names = self.names()?;
        let mut ids: Vec<ImageId> = names.iter().filter_map(|name| id_of(name, IMAGE_SUFFIX)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Removes an image durably and returns the bytes that frees: 0 if it is not there. Open readers can read on.
    pub fn remove_image(&self, id: &ImageId) -> Result<u64, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let name = image_name(id);
        let removed = storage.open(&name).and_then(|file| {
            let len = file.len()?;
            storage.remove(&name)?;
            Ok(len)
        });
        let freed_bytes = match removed {
            Ok(len) => len,
            Err(error) if is_missing(&error) => 0,
            Err(error) => return Err(self.shared.failed("remove", &name, error)),
        };
        // Also when it was gone: the removal that a crash interrupted may not be durable yet.
        storage.sync_dir().map_err(|error| self.shared.failed("sync the folder of", &name, error))?;
        Ok(freed_bytes)
    }

    /// Removes the unfinished files of images whose writers are gone, except those that `keep` wants.
    ///
    /// Safe beside writers, in this process and others.
    pub fn sweep(&self, keep: impl Fn(&ImageId) -> bool) -> Result<SweepReport, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let mut report = SweepReport::default();
        let names = self.names()?;
        for (name, id) in names.iter().filter_map(|name| Some((name, id_of(name, PART_SUFFIX)?))) {
            let removed = if keep(&id) {
                None
            } else {
                storage.remove_abandoned(name).map_err(|error| self.shared.failed("remove", name, error))?
            };
            match removed {
                Some(len) => {
                    report.freed_bytes += len;
                    report.removed.push(id);
                }
                None => report.kept += 1,
            }
        }
        report.removed.sort_unstable();
        Ok(report)
    }

    /// Says whether a write has failed: no image can be written until the store is opened again.
    pub fn latched(&self) -> bool {
        self.shared.is_latched()
    }

    /// Returns the bytes that can still be written to the storage.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.shared
            .storage
            .free_bytes()
            .map_err(|error| self.shared.failed("ask for free space in", "", error))
    }

    /// Creates the part file of an image; one that has lost its writer is replaced.
    fn create_part(&self, id: &ImageId) -> Result<Box<dyn StorageFile>, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let name = part_name(id);
        let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
        let created = match storage.create(&name) {
            Err(error) if is_taken(&error) => {
                storage.remove_abandoned(&name).and_then(|_| storage.create(&name))
            }
            created => created,
        };
        match created {
            Ok(file) => Ok(file),
            Err(error) if is_taken(&error) => Err(StoreError::Exists { image: id.clone() }),
            Err(error) => Err(self.shared.write_failed("create", &name, error)),
        }
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        self.shared.storage.list().map_err(|error| self.shared.failed("list", "", error))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("latched", &self.latched()).finish_non_exhaustive()
    }
}

/// Returns the name of a complete image's file.
pub(crate) fn image_name(id: &ImageId) -> String {
    format!("{id}{IMAGE_SUFFIX}")
}

/// Returns the name of an image's file while it is written.
pub(crate) fn part_name(id: &ImageId) -> String {
    format!("{id}{PART_SUFFIX}")
}

fn id_of(name: &str, suffix: &str) -> Option<ImageId> {
    ImageId::new(name.strip_suffix(suffix)?).ok()
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
