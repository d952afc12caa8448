//! The background job of a lazy restore: a QEMU is given its memory until it has all, by a page server.
//!
//! Its record is about a QEMU process and means nothing once that is gone, but for a failure, which stays until the VM is
//! started or restored again. So nothing of it is synced: what a power cut takes with it has no meaning after it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::worker;
use crate::background::{Job, Kind, Lasts, Shift, Turn};
use crate::error::Result;
use crate::ids::{SnapshotId, checked};
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::vm::process::Process;

/// A lazy restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LazyRestore {
    /// The snapshot whose memory is served.
    pub(crate) snapshot: SnapshotId,
    /// Its name, for people.
    pub(crate) name: String,
    /// The image that it is read from.
    #[serde(deserialize_with = "checked::image")]
    pub(crate) image: String,
    /// The QEMU that it is served to; null until it waits for it.
    pub(crate) qemu: Option<ProcessMark>,
    /// Whether it has said that its devices are loaded: from then on it can go on with another server.
    #[serde(default)]
    pub(crate) loaded: bool,
}

impl LazyRestore {
    /// The QEMU that it is about, if that lives.
    ///
    /// It is the VM's QEMU, or none: a pid and its start time alone can be another process's after a reboot of the host, or in
    /// another pid namespace, and what is served badly is killed.
    pub(super) fn qemu(&self, folder: &VmFolder) -> Result<Option<Process>> {
        let Some(mark) = self.qemu else { return Ok(None) };
        Ok(Process::find(folder)?.filter(|process| process.mark == mark))
    }
}

impl Job for LazyRestore {
    const KIND: Kind = Kind {
        word: "pages",
        servant: "page server",
        record: "lazy.json",
        lock: "lazy.lock",
        progress: "pages.json",
        log: "pages.log",
        lasts: Lasts::UntilReboot,
        end_patience: Duration::from_secs(3),
    };

    fn is_same(&self, other: &Self) -> bool {
        self.snapshot == other.snapshot && self.qemu == other.qemu
    }

    /// From the moment on when it is known who is served.
    fn is_begun(&self) -> bool {
        self.qemu.is_some()
    }

    fn is_wanted(&self, folder: &VmFolder) -> Result<bool> {
        Ok(self.qemu(folder)?.is_some())
    }

    fn work(shift: &Shift<'_, Self>) -> Result<Turn> {
        worker::work(shift)
    }

    /// Ends QEMU, since its guest would wait for a page for ever.
    fn failed(&self, folder: &VmFolder) -> Result<()> {
        self.qemu(folder)?.map_or(Ok(()), |process| process.kill())
    }
}
