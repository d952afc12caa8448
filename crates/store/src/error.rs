//! What can go wrong in a store, with the object and the operation named.
//!
//! Storage speaks `io::Error`; the functions at the end turn those into [`StoreError`] in one place, so that a full disk
//! is told apart from a broken one everywhere alike.

use std::fmt;
use std::io;

use crate::entry::ObjectKind;
use crate::hash::{ObjectHash, PackId};
use crate::id::ImageId;
use crate::storage::Storage;

/// Failure of an operation on a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The image's file does not hold what was written to it.
    #[error("image {image} is damaged in its {what}: {place}")]
    Damaged {
        /// Image with the damage.
        image: ImageId,
        /// Part of the file that is affected.
        what: Part,
        /// Where in that part, and what is wrong there.
        place: String,
    },
    /// The image was written by a later version of this program.
    #[error("image {image} has format version {version}; this program reads up to version {supported}")]
    NewerFormat {
        /// Image that was to be opened.
        image: ImageId,
        /// Version found in its header.
        version: u32,
        /// Highest version that is understood.
        supported: u32,
    },
    /// The image was written by an earlier version of this program, in a format that is not read any more.
    #[error(
        "image {image} was made by an older version of this program (format version {version}), and can't be read by this one"
    )]
    OlderFormat {
        /// Image that was to be opened.
        image: ImageId,
        /// Version found in its header.
        version: u32,
    },
    /// No image of that id is in the store.
    #[error("no image {image} in the store")]
    NotFound {
        /// Id that was asked for.
        image: ImageId,
    },
    /// The image is being read: it cannot be removed now.
    #[error("image {image} is in use")]
    InUse {
        /// Image that was to be removed.
        image: ImageId,
    },
    /// An image of that id is in the store, or is being written.
    #[error("image {image} exists already or is being written")]
    Exists {
        /// Id that was to be created.
        image: ImageId,
    },
    /// The storage is full.
    #[error("no space left while trying to {op} {path} ({free_bytes} bytes free)")]
    NoSpace {
        /// What was being done.
        op: &'static str,
        /// File that was being written.
        path: String,
        /// Bytes free at that moment.
        free_bytes: u64,
    },
    /// The storage failed.
    #[error("could not {op} {path}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// File or folder it was done to.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// An earlier write failed: of this writer, or in a way that closes the store for all until it is opened again.
    #[error("the store is closed for writing since an earlier write failed")]
    Latched,
    /// The caller's verification callback asked to stop.
    #[error("verification of image {image} was stopped")]
    Stopped {
        /// Image that was being verified.
        image: ImageId,
    },
    /// The caller's progress callback asked to stop.
    #[error("{what} was stopped")]
    Interrupted {
        /// What was being done.
        what: &'static str,
    },
    /// Others are at work on the store in a way that this cannot go beside.
    #[error("the store is busy: {what}")]
    Busy {
        /// What they do.
        what: &'static str,
    },
    /// A file of the store that is not an image's is not what was written.
    #[error("{path} is damaged in its {what}: {place}")]
    DamagedFile {
        /// The file.
        path: String,
        /// Part of the file that is affected.
        what: Part,
        /// Where in that part, and what is wrong there.
        place: String,
    },
    /// A file of the store was written by a later version of this program.
    #[error("{path} has format version {version}; this program reads up to version {supported}")]
    NewerFile {
        /// The file.
        path: String,
        /// Version found in it.
        version: u32,
        /// Highest version that is understood.
        supported: u32,
    },
    /// An object's bytes are not those that it is named by.
    #[error("{kind} {object} is damaged in pack {pack}: {place}")]
    DamagedObject {
        /// The object.
        object: ObjectHash,
        /// What it is for.
        kind: ObjectKind,
        /// Pack that holds it.
        pack: PackId,
        /// What is wrong with it.
        place: String,
    },
    /// No pack holds an object that is needed.
    #[error("{kind} {object} is in no pack of the store")]
    MissingObject {
        /// The object.
        object: ObjectHash,
        /// What it is for.
        kind: ObjectKind,
    },
    /// The caller asked for something that the image cannot hold or does not have.
    #[error("image {image}: {what}")]
    Invalid {
        /// Image that was addressed.
        image: ImageId,
        /// What is wrong with the request.
        what: String,
    },
}

/// Part of an image's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The first page: magic, version, ids.
    Header,
    /// The end of the file, by which the tables are found.
    Footer,
    /// The lists of spaces, pages and attachments.
    Tables,
    /// A page's data.
    Page,
    /// An attachment's data.
    Attachment,
    /// An object of a pack.
    Object,
    /// A pack's list of what is in it.
    Directory,
    /// A node of an image's tree.
    Node,
    /// The sorted part of an index segment.
    Entries,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Header => "header",
            Part::Footer => "footer",
            Part::Tables => "tables",
            Part::Page => "page data",
            Part::Attachment => "attachment data",
            Part::Object => "objects",
            Part::Directory => "directory",
            Part::Node => "node",
            Part::Entries => "entries",
        })
    }
}

impl StoreError {
    /// Describes `source`, met while doing `op` to `name` in `storage`.
    pub(crate) fn io(storage: &dyn Storage, op: &'static str, name: &str, source: io::Error) -> StoreError {
        let path = storage.locate(name);
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::NoSpace { op, path, free_bytes: storage.free_bytes().unwrap_or(0) }
            }
            _ => StoreError::Io { op, path, source },
        }
    }

    /// Says whether what was read is not what was written, by the hashes; not a failure of the storage to read it.
    pub fn is_damage(&self) -> bool {
        use StoreError::{Damaged, DamagedFile, DamagedObject, MissingObject, NewerFile, NewerFormat};
        match self {
            Damaged { .. } | DamagedFile { .. } | DamagedObject { .. } | MissingObject { .. } => true,
            // A version that does not exist yet: the file cannot be used, whatever is in it.
            NewerFile { .. } | NewerFormat { .. } => true,
            _ => false,
        }
    }

    /// Makes an [`StoreError::Invalid`] about `image`.
    pub(crate) fn invalid(image: &ImageId, what: impl Into<String>) -> StoreError {
        StoreError::Invalid { image: image.clone(), what: what.into() }
    }
}
