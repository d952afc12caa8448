//! What threads share by monitors of our own, once more, under schedules that are drawn by lot.
//!
//! A lost wake-up, or a look that is stale by the time it counts, shows in one schedule of many, and the system always
//! takes the same few. So the files below are compiled here with `shuttle`'s locks for the standard library's: of their
//! tests, those that go through `explore` run under some thousand schedules each (`vmrewind_testkit::schedules`).
#![allow(dead_code, reason = "what only the rest of the writer uses")]
#![allow(clippy::duplicate_mod, reason = "the same code with other locks")]

use super::{batch, page_map};

#[path = "intake.rs"]
mod intake;
#[path = "reorder.rs"]
mod reorder;
#[path = "seen.rs"]
mod seen;
#[path = "../shared.rs"]
mod shared;

/// In place of [`crate::sync`].
mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::thread;
    pub(crate) use vmrewind_testkit::schedules::{alone, explore};
}
