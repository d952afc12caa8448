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
//! Guarantees: an image is listed only when it is whole and durable; the first write of a writer that fails is its last,
//! and closes the store too, unless only room was wanting. The bytes are described in `docs/store-format.md`.

mod block;
mod check;
mod entry;
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
mod shared;
mod storage;
mod store;
mod sync;
#[cfg(test)]
mod testing;
mod tree;
mod usage;
mod writer;

pub mod fuzz;

pub use block::{BlockSize, PAGE_SIZE, Page, SpaceIndex};
pub use check::{CheckOptions, CheckReport, Damage};
pub use entry::ObjectKind;
pub use error::{Part, StoreError};
pub use gc::{GcOptions, GcPlan, GcReport, PackReason, PackStep, PartStep};
pub use hash::{BadHash, BlockHash, ObjectHash, PackId};
pub use id::{BadId, ImageId};
pub use progress::{OnProgress, Progress};
pub use reader::{ImageReader, ImageSummary, Space};
pub use storage::{DirStorage, LockKind, Storage, StorageFile};
pub use store::{Store, SweepReport};
pub use usage::{SetUsage, UsageReader};
pub use writer::{ImageWriter, WriteOptions};
