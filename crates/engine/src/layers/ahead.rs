//! Layers that are made durable while other work goes on.

use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result};
use crate::root::file::Files;

/// A sync of layers under way.
///
/// The kernel tells a failed write-back to one sync only (`vmrewind_files`). So what this one is told counts: before
/// anything promises the layers it must have been asked for, and a later sync of them is no answer to it.
#[must_use = "the answer is part of the proof that the layers last"]
pub(crate) struct SyncAhead(Option<JoinHandle<Result<()>>>);

impl SyncAhead {
    /// Begins to sync `layers`, which nobody writes any more.
    pub(crate) fn begin(files: &Files, layers: Vec<PathBuf>) -> Self {
        let files = files.clone();
        let sync = move || layers.iter().try_for_each(|layer| files.sync_file(layer));
        // Where there can be no thread, nothing was asked of the kernel, and the commit's own sync is the first.
        Self(Builder::new().name("sync".into()).spawn(sync).ok())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// What could not be made durable. What these layers hold on the disk is not known then.
    pub(crate) fn finish(self) -> Result<()> {
        let Some(thread) = self.0 else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(Error::failed("the thread that syncs layers died")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vmrewind_testkit::fault_disk::FaultDisk;

    use super::*;

    /// Guards an undo point against data that was lost: what the kernel told the sync that went ahead is not forgotten,
    /// since it tells nobody again.
    #[test]
    fn what_a_sync_was_told_is_told_on() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["a", "b", "c"].map(|name| dir.path().join(name)).to_vec();
        layers.iter().for_each(|layer| std::fs::write(layer, "data").unwrap());
        for fails in [None, Some(0), Some(2)] {
            let disk = FaultDisk::default();
            fails.iter().for_each(|at| disk.fail_after(*at, 5));
            let done = SyncAhead::begin(&Files::on(Arc::new(disk.clone())), layers.clone()).finish();
            assert_eq!(done.is_err(), fails.is_some(), "{fails:?}");
            assert_eq!(disk.steps().len(), fails.map_or(3, |at| at + 1), "{:?}", disk.steps());
        }
        let gone = vec![dir.path().join("gone")];
        assert!(SyncAhead::begin(&Files::of_this_host(), gone).finish().is_err());
    }
}
