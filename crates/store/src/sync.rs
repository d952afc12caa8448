//! The locks of what several threads share and wait for by hand: the standard library's.
//!
//! `shared`, and the writer's intake, reorder and seen take them from here by `super::sync`, and their tests go through
//! [`explore`]. So the same files can be compiled a second time, in `writer::schedules`, with locks whose order is chosen.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic};
#[cfg(test)]
pub(crate) use std::thread;

/// Runs a test of one thread.
#[cfg(test)]
pub(crate) fn alone(test: impl Fn() + Send + Sync + 'static) {
    test();
}

/// Runs a test as the system happens to schedule its threads.
#[cfg(test)]
pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
    test();
}
