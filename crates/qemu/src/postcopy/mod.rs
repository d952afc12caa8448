//! The source of a postcopy migration: a captured machine given to a QEMU whose guest runs before its memory is there.
//!
//! Devices go first, in one package. From then on QEMU asks for each page that is touched and not there, and the guest's
//! processor waits for it. The rest is pushed behind that.
//!
//! ```text
//!            [header, ADVISE, blocks, DISCARD, package]
//!  fresh -------------------------------------------> Loading --PONG 3--> Serving --all sent: END--> Ending --SHUT--> Over
//!  recovering ------------> Bitmaps --all there--> Resuming --RESUME_ACK----^
//!            [RECV_BITMAP for each block]     [RESUME]
//! ```
//! [`Source`] is told what QEMU sends back and what time it is, and says which pages to read and which bytes to send.
//! What is sent, in this order: pages that were asked for, with their neighbours; the early part of the working set, as
//! soon as the package is out; its later part and the rest, a while after the guest can run. Each page goes out once. A
//! page of zeros is sent when it is asked for, or with the working set; the others QEMU makes itself at the end.
//!
//! On hosts whose pages are larger than the guest's, QEMU puts a page of the host in place once all guest pages of it have come,
//! and fails where those of another come between. So everything is chosen, sent and remembered by whole host pages
//! ([`Options::host_page_bytes`]), the zeros in them included.
//!
//! Which pages hold data it need not know to begin with, since that takes the longer the more memory there is: the guest
//! can run before.
//!
//! After the source's death QEMU waits for another one, which asks which pages came and goes on (`recovering`). Before
//! PONG 3 QEMU ends with its source.
//!
//! Source of the formats: QEMU `migration/savevm.c`, `migration/ram.c` (`ram_load_postcopy`), `migration/migration.c`.

mod error;
#[doc(hidden)]
pub mod fuzz;
mod opening;
mod page_set;
mod queue;
mod return_path;
mod source;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::time::Duration;

pub use error::{ReturnFault, SourceError};
pub use return_path::{Message, ReturnPath};
pub use source::{Batch, Content, Lane, Next, Piece, Progress, Source};

use crate::stream::PAGE_BYTES;

/// Which pages of a block hold data; all others are zero.
pub type DataRuns = Vec<Range<u64>>;

/// One page: an index into the list of blocks, and a number within the block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageAddress {
    /// Which block.
    pub block: usize,
    /// Which of its pages of 4 KiB.
    pub page: u64,
}

/// Pages that a guest touches first, in that order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstPages {
    /// Those that its first steps wait for.
    pub early: Vec<PageAddress>,
    /// Those that it wants soon after.
    pub later: Vec<PageAddress>,
}

/// How pages are sent.
#[derive(Debug, Clone)]
pub struct Options {
    /// Pages of the host that QEMU runs on, which is where its source runs too: they talk over a Unix socket.
    pub host_page_bytes: u64,
    /// Pages that go out together where one of them is asked for: an aligned window of so many, or of the next whole
    /// number of host pages.
    pub around_pages: u64,
    /// Pages in one batch of the working set or the rest, filled up to a whole host page. A page that is asked for waits for
    /// one batch at most.
    pub batch_pages: u64,
    /// From the guest being able to run (or a recovery) to the first page that nobody asked for.
    pub push_after: Duration,
    /// How many pages are remembered that were asked for, or sent with such.
    pub remember_pages: usize,
    /// How long they are, from the first request on.
    pub remember_for: Duration,
    /// For how long, from the first request on, they count as early.
    pub early_for: Duration,
    /// How many count as early however long they take: on a slow host the guest comes less far in that time.
    pub early_pages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host_page_bytes: PAGE_BYTES,
            around_pages: 8,
            batch_pages: 16,
            push_after: Duration::from_millis(200),
            remember_pages: 32 << 10,
            remember_for: Duration::from_secs(5),
            early_for: Duration::from_millis(250),
            early_pages: 2048,
        }
    }
}
