//! The store: a set of images in a [`Storage`].
//!
//! An image is there under its final name, whole, or not at all; what is being written has a name of its own
//! (`ID.image.part`) and is held by its writer. What images are made of is in packs, which they share. Clones of a `Store`
//! are one store: they share caches, and are closed together when the storage fails.
//!
//! A writer holds the file `lock` shared from beginning to end: what it found in the store stays there until its image
//! refers to it. A reader holds its image's file shared: that cannot be removed meanwhile.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::hash::PackId;
use crate::id::ImageId;
use crate::objects::Objects;
use crate::reader::{ImageReader, read_file};
use crate::shared::{
    LOCK_NAME, Latch, Shared, image_name, image_of, is_part, pack_name, part_image_of, part_name,
};
use crate::storage::{LockKind, Storage, StorageFile};
use crate::writer::{Begin, ImageWriter, Limits, WriteOptions};

/// How long opening an image waits for one who creates or removes it: moments.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// A set of images.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) objects: Arc<Objects>,
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

impl Store {
    /// Opens the store in `storage`, which may be empty. Nothing is written, and no image is read.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Store, StoreError> {
        let shared = Arc::new(Shared::new(storage));
        let objects = Arc::new(Objects::new(Arc::clone(&shared)));
        let store = Store { shared, objects };
        store.names()?;
        Ok(store)
    }

    /// Begins an image under an id that no image has.
    pub fn create_image(&self, id: ImageId, options: WriteOptions) -> Result<ImageWriter, StoreError> {
        self.create_within(id, options, Limits::default())
    }

    /// Begins an image with other limits than usual.
    pub(crate) fn create_within(
        &self,
        id: ImageId,
        options: WriteOptions,
        limits: Limits,
    ) -> Result<ImageWriter, StoreError> {
        if self.latched() {
            return Err(StoreError::Latched);
        }
        let hold = self.lock_shared()?;
        // What was seen before the lock was got can be gone.
        self.objects.index().reload()?;
        let file = self.create_part(&id)?;
        // Looked up after the part file is held: a writer before us has either got its final name by now or none.
        if self.names()?.contains(&image_name(&id)) {
            let _ = self.shared.storage.remove(&part_name(&id));
            return Err(StoreError::Exists { image: id });
        }
        let before = options.parent.as_ref().and_then(|parent| self.open_image(parent).ok());
        ImageWriter::begin(Begin {
            latch: Latch::new(Arc::clone(&self.shared)),
            objects: Arc::clone(&self.objects),
            id,
            options,
            before,
            file,
            hold,
            limits,
        })
    }

    /// Opens a complete image; its file is read and verified, its data is not. It cannot be removed until the reader
    /// is dropped.
    pub fn open_image(&self, id: &ImageId) -> Result<ImageReader, StoreError> {
        let name = image_name(id);
        match self.shared.storage.lock(&name, LockKind::Shared, Some(OPEN_PATIENCE)) {
            Ok(Some(file)) => ImageReader::load(&self.shared, Arc::clone(&self.objects), id, file),
            Ok(None) => Err(StoreError::InUse { image: id.clone() }),
            Err(error) if is_missing(&error) => Err(StoreError::NotFound { image: id.clone() }),
            Err(error) => Err(self.shared.failed("open", &name, error)),
        }
    }

    /// Lists the complete images, sorted by id.
    pub fn images(&self) -> Result<Vec<ImageId>, StoreError> {
        let names = self.names()?;
        let mut ids: Vec<ImageId> = names.iter().filter_map(|name| image_of(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Removes an image durably and returns the bytes that frees at once: 0 if it is not there. What only this image
    /// referred to is freed by `gc`.
    ///
    /// Fails with [`StoreError::InUse`] while a reader has it open.
    pub fn remove_image(&self, id: &ImageId) -> Result<u64, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let name = image_name(id);
        let freed_bytes = match storage.lock(&name, LockKind::Exclusive, Some(Duration::ZERO)) {
            Ok(None) => return Err(StoreError::InUse { image: id.clone() }),
            Ok(Some(file)) => file.len().and_then(|len| storage.remove(&name).map(|()| len)),
            Err(error) if is_missing(&error) => Ok(0),
            Err(error) => Err(error),
        };
        let freed_bytes = freed_bytes.map_err(|error| self.shared.failed("remove", &name, error))?;
        // Also when it was gone: the removal that a crash interrupted may not be durable yet.
        self.shared.sync_names(&name)?;
        Ok(freed_bytes)
    }

    /// Removes the files that writers left unfinished, except those of images that `keep` wants.
    ///
    /// Safe beside writers, in this process and others. Packs that are complete but belong to no image are left to `gc`.
    pub fn sweep(&self, keep: impl Fn(&ImageId) -> bool) -> Result<SweepReport, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let mut report = SweepReport::default();
        for name in self.names()?.iter().filter(|name| is_part(name)) {
            let image = part_image_of(name);
            let removed = if image.as_ref().is_some_and(&keep) {
                None
            } else {
                storage.remove_abandoned(name).map_err(|error| self.shared.failed("remove", name, error))?
            };
            match removed {
                Some(len) => {
                    report.freed_bytes += len;
                    report.removed.extend(image);
                }
                None => report.kept += 1,
            }
        }
        report.removed.sort_unstable();
        Ok(report)
    }

    /// Says whether the storage has failed in a way that closed the store: nothing can be written until it is opened again.
    ///
    /// A disk that was full closes writers, not the store.
    pub fn latched(&self) -> bool {
        self.shared.is_closed()
    }

    /// Returns the bytes that can still be written to the storage.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.shared
            .storage
            .free_bytes()
            .map_err(|error| self.shared.failed("ask for free space in", "", error))
    }

    /// Takes the store's lock together with other writers: it keeps what is in the store there.
    fn lock_shared(&self) -> Result<Box<dyn StorageFile>, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        storage
            .create_empty(LOCK_NAME)
            .map_err(|error| self.shared.write_failed("create", LOCK_NAME, error))?;
        // It is held alone for moments only.
        match storage.lock(LOCK_NAME, LockKind::Shared, None) {
            Ok(Some(hold)) => Ok(hold),
            Ok(None) => Err(self.shared.failed("lock", LOCK_NAME, io::ErrorKind::TimedOut.into())),
            Err(error) => Err(self.shared.failed("lock", LOCK_NAME, error)),
        }
    }

    /// Locks a file that is there for its lock only; none when others have kept it for all of `wait`.
    pub(crate) fn lock_file(
        &self,
        name: &str,
        kind: LockKind,
        wait: Option<Duration>,
    ) -> Result<Option<Box<dyn StorageFile>>, StoreError> {
        let Shared { storage, .. } = &*self.shared;
        let created = storage.create_empty(name);
        created.map_err(|error| self.shared.write_failed("create", name, error))?;
        storage.lock(name, kind, wait).map_err(|error| self.shared.failed("lock", name, error))
    }

    /// Reads and verifies an image's file; none where it is gone, or of a format that refers to no objects.
    pub(crate) fn image_file(&self, id: &ImageId) -> Result<Option<ImageFile>, StoreError> {
        let name = image_name(id);
        let file = match self.shared.storage.open(&name) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.shared.failed("open", &name, error)),
        };
        match read_file(&self.shared, id, &*file) {
            Ok(file) => Ok(Some(file)),
            Err(StoreError::OlderFormat { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the length of an image's file; 0 where it cannot be asked.
    pub(crate) fn image_file_bytes(&self, id: &ImageId) -> u64 {
        self.file_bytes(&image_name(id))
    }

    /// Returns the length of a pack's file; 0 where it cannot be asked.
    pub(crate) fn pack_file_bytes(&self, id: &PackId) -> u64 {
        self.file_bytes(&pack_name(id))
    }

    fn file_bytes(&self, name: &str) -> u64 {
        self.shared.storage.open(name).and_then(|file| file.len()).unwrap_or(0)
    }

    /// Lists the files that are being written, or that dead writers left.
    pub(crate) fn part_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.names()?;
        names.retain(|name| is_part(name));
        names.sort_unstable();
        Ok(names)
    }

    /// Creates the part file of an image; one that has lost its writer is replaced.
    fn create_part(&self, id: &ImageId) -> Result<Box<dyn StorageFile>, StoreError> {
        let name = part_name(id);
        self.shared.create_part(&name).map_err(|error| match error.kind() {
            // Another writer of that image is at work.
            io::ErrorKind::AlreadyExists => StoreError::Exists { image: id.clone() },
            _ => self.shared.write_failed("create", &name, error),
        })
    }

    pub(crate) fn names(&self) -> Result<Vec<String>, StoreError> {
        self.shared.storage.list().map_err(|error| self.shared.failed("list", "", error))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("latched", &self.latched()).finish_non_exhaustive()
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
