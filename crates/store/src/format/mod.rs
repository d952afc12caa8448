//! The bytes of an image's file: see `docs/format.md` for the diagrams.
//!
//! Everything here works on byte slices; reading and writing files is the business of `reader` and `writer`. Decoders
//! bound every length before they allocate, name the field that is wrong, and never panic, whatever the bytes.

mod cursor;
#[allow(dead_code, reason = "used by the new writer and reader, which are not there yet")]
pub(crate) mod filter;
mod frame;
#[allow(dead_code, reason = "used by the new writer and reader, which are not there yet")]
pub(crate) mod node;
#[allow(dead_code, reason = "used by the new writer and reader, which are not there yet")]
pub(crate) mod pack;
#[allow(dead_code, reason = "used by the new writer and reader, which are not there yet")]
pub(crate) mod segment;
mod tables;

pub(crate) use frame::{FOOTER_LEN, FOOTER_SIZE, Footer, HEADER_LEN, Header, VERSION};
pub(crate) use tables::{
    Attachment, MAX_ATTACHMENTS, MAX_NAME_LEN, MAX_SPACES, PageEntry, Piece, SpaceTable, Tables, encode,
};

use std::fmt;

use crate::{ImageId, PAGE_BYTES, Part, StoreError};

/// Largest length of a space in bytes.
pub(crate) const MAX_SPACE_BYTES: u64 = 1 << 43;

/// Largest length of an attachment in bytes.
pub(crate) const MAX_ATTACHMENT_BYTES: u64 = 1 << 30;

/// First half of the hash of a page.
pub(crate) type PageHash = [u8; 16];

/// Hashes the content of a page.
pub(crate) fn page_hash(data: &[u8]) -> PageHash {
    let mut half = PageHash::default();
    half.copy_from_slice(blake3::hash(data).as_bytes().split_at(size_of::<PageHash>()).0);
    half
}

/// Returns where a slot lies in the file.
pub(crate) fn slot_offset(slot: u32) -> u64 {
    HEADER_LEN + u64::from(slot) * PAGE_BYTES
}

/// Why bytes are not an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
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
            newer @ Flaw::Newer(_) => newer,
        }
    }

    /// Names the file that the bytes belong to, which is not an image's; `supported` is the highest version read.
    pub(crate) fn in_file(self, path: String, supported: u32) -> StoreError {
        match self {
            Flaw::Newer(version) => StoreError::NewerFile { path, version, supported },
            Flaw::Damaged(what, place) => StoreError::DamagedFile { path, what, place },
        }
    }

    /// Names the image that the bytes belong to.
    pub(crate) fn of(self, image: &ImageId) -> StoreError {
        let image = image.clone();
        match self {
            Flaw::Newer(version) => StoreError::NewerFormat { image, version, supported: VERSION },
            Flaw::Damaged(what, place) => StoreError::Damaged { image, what, place },
        }
    }
}
