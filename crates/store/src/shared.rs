//! The bottom of the store: the storage and what its failures close, which all share, and the names of files.
//!
//! ```text
//!   ID.image  PACKID.pack  HASH.index     complete, never changed
//!   *.image.part  *.pack.part  ..         being written, or left by a writer that died: see `is_part`
//!   lock  gc-lock                         empty, there for their locks
//!   PACKID-ENTRY.bad                      empty, a mark: see `index::bad`
//! ```
//!
//! This module knows no other but what names things (`id`, `hash`) and what fails (`error`), so that every other one may
//! use it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;

use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{Mutex, PoisonError};
use crate::error::StoreError;
use crate::hash::PackId;
use crate::id::ImageId;
use crate::storage::{Storage, StorageFile};

const IMAGE_SUFFIX: &str = ".image";
const IMAGE_PART_SUFFIX: &str = ".image.part";
const PACK_SUFFIX: &str = ".pack";
const SEGMENT_SUFFIX: &str = ".index";
/// End of the name of a pack that is being written.
pub(crate) const PACK_PART_SUFFIX: &str = ".pack.part";
/// End of the name of an index segment that is being written.
pub(crate) const SEGMENT_PART_SUFFIX: &str = ".index.part";
/// End of the names of all files that are being written.
const PART_SUFFIX: &str = ".part";
/// File that keeps what writers refer to from being removed.
pub(crate) const LOCK_NAME: &str = "lock";

/// What a store's clones, readers and writers share.
///
/// ```text
///   whose write fails                for want of room        otherwise
///   a writer's own part file         closes its Latch        closes its Latch and the store
///   the sync of the folder           closes the store: names that anybody gave may be lost
/// ```
///
/// A part file is its writer's alone: nobody else refers to what is in it before it has its final name, and then it was
/// synced. So a disk that was full costs the images that were being written, not those that come once there is room. A
/// storage that fails otherwise is not written to again until the store is opened anew.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    is_closed: AtomicBool,
    names: NameSync,
    /// Begins the temporary names that this opening of the store makes.
    tag: u64,
    /// Temporary names so far.
    temporary_names: AtomicU64,
}

impl Shared {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Shared {
        Shared {
            storage,
            is_closed: AtomicBool::new(false),
            names: NameSync::default(),
            tag: RandomState::new().hash_one(()),
            temporary_names: AtomicU64::new(0),
        }
    }

    /// Says whether nothing may be written any more, by anybody.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Describes a write that failed, and closes the store unless only room was wanting.
    pub(crate) fn write_failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        if !wants_room(&source) {
            self.is_closed.store(true, Ordering::Relaxed);
        }
        self.failed(op, name, source)
    }

    /// Makes all names durable as they are; a failure closes the store, and is told to whoever comes later too.
    pub(crate) fn sync_names(&self, name: &str) -> Result<(), StoreError> {
        match self.names.sync(|| self.storage.sync_dir()) {
            NamesAre::Durable => Ok(()),
            NamesAre::Lost(None) => Err(StoreError::Latched),
            NamesAre::Lost(Some(error)) => {
                self.is_closed.store(true, Ordering::Relaxed);
                Err(self.failed("sync the folder of", name, error))
            }
        }
    }

    /// Makes a temporary name that ends so and that nobody else makes: no other thread, and no other process, whose number
    /// can be the same in another container. Chance does no more than keep them apart; creating fails where a name is taken.
    pub(crate) fn temporary_name(&self, ending: &str) -> String {
        let number = self.temporary_names.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number}{ending}", self.tag)
    }

    /// Creates a file under a temporary name and holds it; one that has lost its writer is replaced.
    pub(crate) fn create_part(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        match self.storage.create(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove_abandoned(name)?;
                self.storage.create(name)
            }
            created => created,
        }
    }

    /// Describes a failure that is no write's: it closes nothing.
    pub(crate) fn failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::io(&*self.storage, op, name, source)
    }
}

/// Makes names durable, for all that gave some.
///
/// Of a failed sync of a folder the system tells one caller only: the next sync is said to have worked, whatever became of
/// the names. So no two run at once, and after a failure there is none.
#[derive(Default)]
struct NameSync {
    /// Held while a sync is under way, so that nobody gets in between a failure and its being known.
    has_failed: Mutex<bool>,
}

/// What is known of the names that were given before a sync.
enum NamesAre {
    Durable,
    /// Some may be lost: the error, where it was met just now.
    Lost(Option<io::Error>),
}

impl NameSync {
    fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> NamesAre {
        let mut has_failed = self.has_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_failed {
            return NamesAre::Lost(None);
        }
        match sync() {
            Ok(()) => NamesAre::Durable,
            Err(error) => {
                *has_failed = true;
                NamesAre::Lost(Some(error))
            }
        }
    }
}

/// Says whether a write failed only because there was too little room for it.
fn wants_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// What one writer, or one collection, writes through: its first write that fails closes it.
///
/// A writer's threads share it, so that all of them stop: what they would add could not become an image any more.
pub(crate) struct Latch {
    shared: Arc<Shared>,
    is_closed: AtomicBool,
}

impl Latch {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Latch> {
        Arc::new(Latch { shared, is_closed: AtomicBool::new(false) })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.shared.storage
    }

    /// Fails with [`StoreError::Latched`] once a write has failed, here or where it closed the store.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let is_closed = self.is_closed.load(Ordering::Relaxed) || self.shared.is_closed();
        if is_closed { Err(StoreError::Latched) } else { Ok(()) }
    }

    /// Closes the latch, and describes the write that failed.
    pub(crate) fn write_failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        self.is_closed.store(true, Ordering::Relaxed);
        self.shared.write_failed(op, name, source)
    }

    /// Creates a part file: see [`Shared::create_part`].
    pub(crate) fn create_part(&self, name: &str) -> Result<Box<dyn StorageFile>, StoreError> {
        self.shared.create_part(name).map_err(|error| self.write_failed("create", name, error))
    }

    /// Makes all names durable: see [`Shared::sync_names`].
    pub(crate) fn sync_names(&self, name: &str) -> Result<(), StoreError> {
        self.shared.sync_names(name).inspect_err(|_| self.is_closed.store(true, Ordering::Relaxed))
    }
}

/// Returns the name of a complete image's file.
pub(crate) fn image_name(id: &ImageId) -> String {
    format!("{id}{IMAGE_SUFFIX}")
}

/// Returns the name of an image's file while it is written.
pub(crate) fn part_name(id: &ImageId) -> String {
    format!("{id}{IMAGE_PART_SUFFIX}")
}

/// Takes a file's name for that of a complete image.
pub(crate) fn image_of(name: &str) -> Option<ImageId> {
    ImageId::new(name.strip_suffix(IMAGE_SUFFIX)?).ok()
}

/// Takes a file's name for that of an image while it is written.
pub(crate) fn part_image_of(name: &str) -> Option<ImageId> {
    ImageId::new(name.strip_suffix(IMAGE_PART_SUFFIX)?).ok()
}

/// Returns the name of a complete pack's file.
pub(crate) fn pack_name(id: &PackId) -> String {
    format!("{id}{PACK_SUFFIX}")
}

/// Takes a file's name for that of a complete pack.
pub(crate) fn pack_of(name: &str) -> Option<PackId> {
    name.strip_suffix(PACK_SUFFIX)?.parse().ok()
}

/// Returns the name of a complete index segment's file.
pub(crate) fn segment_name(hash: &blake3::Hash) -> String {
    format!("{}{SEGMENT_SUFFIX}", hash.to_hex())
}

/// Says whether a file's name is that of a complete index segment.
pub(crate) fn is_segment(name: &str) -> bool {
    name.ends_with(SEGMENT_SUFFIX)
}

/// Says whether a name is one that a file of the store has while it is written.
pub(crate) fn is_part(name: &str) -> bool {
    let kinds = [".image", ".pack", ".index", ".spill"];
    let whole = name.strip_suffix(PART_SUFFIX);
    let stem = whole.and_then(|whole| kinds.iter().find_map(|kind| whole.strip_suffix(kind)));
    stem.is_some_and(|stem| {
        !stem.is_empty() && stem.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::sync::{alone, explore, thread};
    use super::*;
    use crate::storage::DirStorage;

    // The system says once that names could not be synced. Of two that sync at that moment, only one hears of it from the
    // system, and the other must not believe that what it named is durable.
    #[test]
    fn of_two_syncs_at_once_none_works_after_one_that_failed() {
        explore(|| {
            let names = Arc::new(NameSync::default());
            // Names that were given and not synced yet, and those that were lost, as bits.
            let disk = Arc::new(Mutex::new((0_u32, 0_u32)));
            let sync_dir = |disk: &Mutex<(u32, u32)>, fails: bool| {
                let mut state = disk.lock().expect("no panic");
                let (pending, lost) = *state;
                *state = (0, if fails { lost | pending } else { lost });
                if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            };
            let writers: Vec<_> = (0..3)
                .map(|writer: u32| {
                    let (names, disk) = (Arc::clone(&names), Arc::clone(&disk));
                    thread::spawn(move || {
                        disk.lock().expect("no panic").0 |= 1 << writer;
                        let synced = names.sync(|| sync_dir(&disk, writer == 0));
                        let is_lost = disk.lock().expect("no panic").1 & 1 << writer != 0;
                        assert!(
                            !is_lost || matches!(synced, NamesAre::Lost(_)),
                            "writer {writer} was not told"
                        );
                    })
                })
                .collect();
            writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        });
    }

    // Names of other files must not pass for packs, or gc could remove them.
    #[test]
    fn only_whole_hashes_name_packs() {
        let id = PackId::of(b"x");
        assert_eq!(pack_of(&pack_name(&id)), Some(id));
        for name in ["1.pack".to_owned(), format!("{id}.pack.part"), format!("{id}"), format!("x{id}.pack")] {
            assert_eq!(pack_of(&name), None, "{name}");
        }
    }

    // Two that write under one name would write into each other's file, or fail for no reason; one whose name is not known
    // for a part file's would leave it for ever.
    #[test]
    fn no_two_temporary_names_are_the_same() {
        alone(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let storage: Arc<dyn Storage> = Arc::new(DirStorage::new(folder.path()).expect("a storage"));
            let openings = [Shared::new(Arc::clone(&storage)), Shared::new(storage)];
            let mut names: Vec<String> = openings
                .iter()
                .flat_map(|shared| {
                    [PACK_PART_SUFFIX, SEGMENT_PART_SUFFIX].map(|end| shared.temporary_name(end))
                })
                .collect();
            assert!(names.iter().all(|name| is_part(name)), "{names:?}");
            names.sort_unstable();
            names.dedup_by_key(|name| name.split('.').next().expect("a stem").to_owned());
            assert_eq!(names.len(), 4);
        });
    }

    // Only files with these names are swept: one that is not known by its name stays for ever, and one that is no part
    // file must never be taken for one.
    #[test]
    fn part_files_are_known_by_their_names() {
        let id = ImageId::from_bytes([7; 16]);
        for name in
            [part_name(&id), format!("{id}-0.pack.part"), "1.index.part".into(), format!("{id}.spill.part")]
        {
            assert!(is_part(&name), "{name}");
        }
        let pack = pack_name(&PackId::of(b"x"));
        for name in [
            image_name(&id),
            pack,
            LOCK_NAME.into(),
            ".image.part".into(),
            "../x.pack.part".into(),
            "1.part".into(),
        ] {
            assert!(!is_part(&name), "{name}");
        }
        assert_eq!(
            (image_of(&image_name(&id)), part_image_of(&part_name(&id))),
            (Some(id.clone()), Some(id.clone()))
        );
        assert_eq!((image_of(&part_name(&id)), part_image_of(&image_name(&id))), (None, None));
        let segment = segment_name(&blake3::hash(b"x"));
        assert!(is_segment(&segment) && !is_segment(&format!("{segment}.part")));
    }
}
