//! The kinds of background jobs that there are.

use crate::background::{self, BackgroundProcess, Job};
use crate::error::{Error, Result};
use crate::lazy::LazyRestore;

/// What the processes of background jobs do. Returns when they are no longer needed.
///
/// # Errors
/// `Usage` for words that no vmrewind gives; `Failed` where the VM's folder can't be worked on.
pub fn work_in_background(process: BackgroundProcess) -> Result<()> {
    if process.kind == LazyRestore::KIND.word {
        return background::run::<LazyRestore>(process);
    }
    Err(Error::usage(format!("'{}' is no background job", process.kind.escape_debug())))
}
