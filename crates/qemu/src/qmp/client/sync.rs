//! The locks of what the reader thread and the callers share: the standard library's.
//!
//! `shared` takes them from here by `super::sync`, and its tests go through [`explore`]. So that file can be compiled a second
//! time, in `schedules`, with locks whose order is chosen.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
#[cfg(test)]
pub(super) use std::thread;

/// Runs a test as the system happens to schedule its threads.
#[cfg(test)]
pub(super) fn explore(test: impl Fn() + Send + Sync + 'static) {
    test();
}
