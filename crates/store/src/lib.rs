//! Keeps images: named spaces of blocks, each zero or data, with named attachments.
//!
//! The crate knows nothing of virtual machines. A caller creates an image under an id of its choice, puts blocks in
//! any order, as often as it likes, and finishes; from then on the image is immutable, and every byte that is read
//! from it has been checked against its hash. What is the same in several images is stored once.
//!
//! ```text
//!            put_page, put_zero, attach    queue, spill    hash, look up, group, compress
//!   caller ──────────────────────────▶ ImageWriter ─────▶ workers ─────▶ packs of groups, nodes, blobs
//!                                          │ finish: trees, sync, image file, rename, sync folder
//!                                          ▼
//!   caller ◀────────────────────────── ImageReader ◀───── Objects: index, caches, verified reads
//!            page, run, stream, flat file, verify
//! ```
//!
//! Guarantees: an image is listed only when it is whole and durable; the first write that fails latches the store
//! closed. The bytes are described in `docs/format.md`.

mod block;
mod check;
mod error;
mod format;
mod gc;
mod graph;
mod hash;
mod id;
mod index;
mod objects;
mod ordered;
mod pack;
mod progress;
mod reader;
mod storage;
mod store;
#[cfg(test)]
mod testing;
mod tree;
mod usage;
mod writer;

pub mod fuzz;

pub use block::BlockSize;
pub use check::{CheckOptions, CheckReport, Damage};
pub use error::{Part, StoreError};
pub use gc::{GcOptions, GcPlan, GcReport, PackReason, PackStep, PartStep};
pub use hash::{BlockHash, ObjectHash, PackId};
pub use id::ImageId;
pub use pack::ObjectKind;
pub use progress::{OnProgress, Progress};
pub use reader::{ImageReader, PageKind, Space};
pub use storage::{DirStorage, LockKind, Storage, StorageFile};
pub use store::{ImageSummary, Store, SweepReport, WriteOptions};
pub use usage::{SetUsage, UsageReader};
pub use writer::ImageWriter;

/// Size of a page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// [`PAGE_SIZE`] as a file offset or length.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Content of one page.
pub type Page = [u8; PAGE_SIZE];

/// A space of one image: its place in the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceIndex(pub(crate) u32);

impl SpaceIndex {
    /// Returns the position in [`ImageReader::spaces`].
    pub fn position(self) -> usize {
        self.0 as usize
    }
}
