//! How far long work is, and whether it is to go on.

use std::ops::ControlFlow;

use crate::error::StoreError;

/// How far a check or a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done. Bytes: `reading packs`, `reading data`, `rewriting packs`. Images: `reading images`. Packs:
    /// `removing packs`. Nothing that is counted: `waiting for captures`.
    pub what: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is in all.
    pub total: u64,
}

/// Hears of progress, and can stop the work.
pub type OnProgress<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Tells of progress; fails when the work is to stop.
pub(crate) fn tell(progress: &mut OnProgress<'_>, step: Progress) -> Result<(), StoreError> {
    match progress(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Interrupted { what: step.what }),
    }
}
