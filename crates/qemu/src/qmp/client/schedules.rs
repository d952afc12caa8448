//! What callers and the reader thread share, once more, under schedules that are drawn by lot.
//!
//! A lost wake-up shows in one schedule of many, and the system always takes the same few. So `shared.rs` is compiled here
//! with `shuttle`'s locks for the standard library's, and its tests run under some thousand schedules each
//! (`vmrewind_testkit::schedules`).
#![allow(dead_code, reason = "what only the rest of the client uses")]
#![allow(clippy::duplicate_mod, reason = "the same code with other locks")]

use super::{connection, events, transcript};

#[path = "shared.rs"]
mod shared;

/// In place of `super::sync`.
mod sync {
    pub(super) use std::sync::PoisonError;

    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use shuttle::thread;
    pub(super) use vmrewind_testkit::schedules::explore;
}
