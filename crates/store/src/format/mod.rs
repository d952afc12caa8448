//! The bytes of the store's files: see `docs/store-format.md` for the diagrams.
//!
//! Everything here works on byte slices; reading and writing files is the business of `reader` and `writer`. Decoders
//! bound every length before they allocate, name the field that is wrong, and never panic, whatever the bytes.

mod cursor;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod node;
pub(crate) mod pack;
pub(crate) mod segment;

use std::fmt;

use image::{IMAGE_VERSION, MAX_NAME_LEN};

use crate::error::{Part, StoreError};
use crate::hash::ObjectHash;
use crate::id::ImageId;

/// Largest length of a space in bytes.
pub(crate) const MAX_SPACE_BYTES: u64 = 1 << 43;

/// Largest length of an attachment in bytes.
pub(crate) const MAX_ATTACHMENT_BYTES: u64 = 1 << 30;

/// Why bytes are not an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// They are of an earlier version that is not read any more.
    Older(u32),
    /// They are of a later version.
    Newer(u32),
    /// They are damaged: the part, and the place in it.
    Damaged(Part, String),
}

impl Flaw {
    pub(crate) fn new(part: Part, place: impl Into<String>) -> Flaw {
        Flaw::Damaged(part, place.into())
    }

    /// Says where in its part the flaw is.
    pub(crate) fn at(self, place: impl fmt::Display) -> Flaw {
        match self {
            Flaw::Damaged(part, what) => Flaw::Damaged(part, format!("{place}, {what}")),
            version @ (Flaw::Older(_) | Flaw::Newer(_)) => version,
        }
    }

    /// Names the file that the bytes belong to, which is not an image's; `supported` is the highest version read.
    pub(crate) fn in_file(self, path: String, supported: u32) -> StoreError {
        match self {
            Flaw::Older(version) | Flaw::Newer(version) => StoreError::NewerFile { path, version, supported },
            Flaw::Damaged(what, place) => StoreError::DamagedFile { path, what, place },
        }
    }

    /// Names the image that the bytes belong to.
    pub(crate) fn of(self, image: &ImageId) -> StoreError {
        let image = image.clone();
        match self {
            Flaw::Older(version) => StoreError::OlderFormat { image, version },
            Flaw::Newer(version) => StoreError::NewerFormat { image, version, supported: IMAGE_VERSION },
            Flaw::Damaged(what, place) => StoreError::Damaged { image, what, place },
        }
    }
}

/// Names the image and the node of its tree that a flaw was found in.
pub(crate) fn checked_node(flaw: Flaw, image: &ImageId, node: &ObjectHash) -> StoreError {
    match flaw {
        Flaw::Damaged(what, place) => Flaw::Damaged(what, format!("node {node}: {place}")).of(image),
        other => other.of(image),
    }
}
