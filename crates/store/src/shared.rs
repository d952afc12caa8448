//! The bottom of the store: the storage with its latch, which clones, readers and writers share, and the names of files.
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

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::StoreError;
use crate::hash::PackId;
use crate::id::ImageId;
use crate::storage::{Storage, StorageFile};

const IMAGE_SUFFIX: &str = ".image";
const IMAGE_PART_SUFFIX: &str = ".image.part";
const PACK_SUFFIX: &str = ".pack";
const SEGMENT_SUFFIX: &str = ".index";
/// End of the names of all files that are being written.
const PART_SUFFIX: &str = ".part";
/// File that keeps what writers refer to from being removed.
pub(crate) const LOCK_NAME: &str = "lock";

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
        self.replace_abandoned(name).map_err(|error| self.write_failed("create", name, error))
    }

    /// The same for files that the store can do without: a failure is the caller's alone.
    pub(crate) fn replace_abandoned(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        match self.storage.create(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove_abandoned(name)?;
                self.storage.create(name)
            }
            created => created,
        }
    }

    pub(crate) fn failed(&self, op: &'static str, name: &str, source: io::Error) -> StoreError {
        StoreError::io(&*self.storage, op, name, source)
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
    use super::*;

    // Names of other files must not pass for packs, or gc could remove them.
    #[test]
    fn only_whole_hashes_name_packs() {
        let id = PackId::of(b"x");
        assert_eq!(pack_of(&pack_name(&id)), Some(id));
        for name in ["1.pack".to_owned(), format!("{id}.pack.part"), format!("{id}"), format!("x{id}.pack")] {
            assert_eq!(pack_of(&name), None, "{name}");
        }
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
