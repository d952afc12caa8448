//! What makes bytes last: files that are whole or not there, folders whose entries are durable, and locks.
//!
//! This crate has never heard of VMs, images or QEMU.
//!
//! ```text
//!  Disk        the steps: create, write, sync, rename, remove        one implementation here, a crashing one in testkit
//!    '-- write_atomic, replace_volatile, make_dirs, remove_tree      made of these steps, in the order that a crash allows
//!  Flock       a lock that the kernel gives up with its last holder  not part of Disk: nothing of it lasts
//!  Ticket      a place in the queue of those who wait for one        nor of this
//! ```
//!
//! # What a sync proves
//!
//! `fsync` answers for a file *description*, not for the file. When the kernel fails to write a page back it marks the
//! page clean all the same and remembers the error once: each description that was open by then is told once, and who opens
//! the file after somebody was told learns nothing (`errseq_t`, Linux 4.13 and later). Therefore:
//!
//! 1. Who writes a file syncs it by the description that it wrote with ([`DiskFile::sync`]).
//! 2. The answer of a sync is never dropped, wherever it is asked: a second sync is no second chance. After a failure the
//!    content on disk is unknown, and only writing it anew helps.
//! 3. Of a file that others wrote, [`Disk::sync_file`] through a fresh description is proof only if nobody else has synced it
//!    since it was written. Where somebody may have (a thread that syncs ahead), that one's answer is part of the proof.

mod disk;
mod flock;
mod queue;
mod real;
mod tree;
mod whole;

pub use disk::{Disk, DiskFile, PRIVATE_DIR, PRIVATE_FILE};
pub use flock::{Flock, Kind, Wait};
pub use queue::{Ticket, is_waited_in};
pub use real::RealDisk;
pub use tree::{make_dirs, remove_tree};
pub use whole::{replace_volatile, unfinished, write_atomic, write_new};
