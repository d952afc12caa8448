//! `lazy.json`: the lazy restore under way on a VM, or why the last one failed; and the lock of those who serve it.
//!
//! The record is about a QEMU process and means nothing once that is gone, but for a failure, which stays until the VM is
//! started or restored again. So nothing of it is synced: what a power cut takes with it has no meaning after it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmrewind_files::{Flock, Kind, Wait};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::{SnapshotId, checked};
use crate::record::RECORD_VERSION;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::root::file::cannot_lock;
use crate::vm::run_folder;

/// A lazy restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LazyRecord {
    /// The format's version.
    pub(crate) version: u32,
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
    /// Why it ended badly: the VM's QEMU was ended for it.
    pub(crate) failure: Option<Failure>,
}

/// Why a VM was stopped while its memory was not there yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Whether data was found damaged; otherwise it could not be read.
    pub(crate) damaged: bool,
    /// What happened, with its causes.
    pub(crate) message: String,
}

impl Failure {
    /// What the caller can do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        if self.damaged { ErrorKind::Damaged } else { ErrorKind::Failed }
    }

    /// What an error of the page server says.
    pub(crate) fn of(error: &Error) -> Self {
        Self { damaged: error.kind() == ErrorKind::Damaged, message: error.in_one_line() }
    }
}

/// How far a lazy restore is, as its server writes it now and then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LazyProgress {
    /// Bytes that QEMU has.
    pub(crate) done_bytes: u64,
    /// Bytes with data in all.
    pub(crate) total_bytes: u64,
}

impl LazyRecord {
    /// Reads the record of the VM in `folder`.
    ///
    /// A record that can't be read is as good as none: it is not synced, and a page server that lives has it in memory.
    pub(crate) fn load(folder: &VmFolder) -> Option<Self> {
        folder.files().read_json(&folder.lazy(), RECORD_VERSION).ok().flatten()
    }

    /// Writes the record; whole, or not at all.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        folder.files().write_volatile(&folder.lazy(), self)
    }

    /// Removes the record if it is still this one. Another command can have begun the next restore since it was read.
    pub(crate) fn remove_this(&self, folder: &VmFolder) -> Result<()> {
        let is_this = |found: &Self| found.snapshot == self.snapshot && found.qemu == self.qemu;
        if Self::load(folder).as_ref().is_some_and(is_this) { Self::remove(folder) } else { Ok(()) }
    }

    /// Removes the record.
    pub(crate) fn remove(folder: &VmFolder) -> Result<()> {
        if let Some(run) = run_folder::existing(folder) {
            folder.files().remove_file(&run.join(PROGRESS))?;
        }
        folder.files().remove_file(&folder.lazy())
    }
}

/// In the run folder: how far the restore is.
const PROGRESS: &str = "pages.json";

impl LazyProgress {
    /// Reads it; nothing where there is none.
    pub(crate) fn load(folder: &VmFolder) -> Self {
        let run = run_folder::existing(folder).unwrap_or_else(|| folder.run());
        let bytes = fs::read(run.join(PROGRESS)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes it.
    pub(crate) fn save(self, folder: &VmFolder) -> Result<()> {
        let run = run_folder::existing(folder).unwrap_or_else(|| folder.run());
        folder.files().write_volatile(&run.join(PROGRESS), &self)
    }
}

/// How long others may look whether the lock is held, before it counts as held.
const LOOK_PATIENCE: Wait = Wait::AtMost(Duration::from_secs(1));

/// The lock of those who serve a VM's memory: the supervisor takes it, its worker inherits it.
pub(crate) struct ServerLock(Flock);

/// Who holds a [`ServerLock`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Servers {
    /// The supervisor, then its worker.
    pub(crate) processes: Vec<ProcessMark>,
}

impl ServerLock {
    /// Takes the lock if nobody holds it. Who asks [`ServerLock::is_held`] holds it for moments: those are waited out.
    pub(crate) fn try_take(folder: &VmFolder) -> Result<Option<Self>> {
        let path = folder.lazy_lock();
        let lock = Flock::take(&path, Kind::Exclusive, LOOK_PATIENCE);
        lock.map(|lock| lock.map(Self)).map_err(|error| cannot_lock(&path, error))
    }

    /// Whether somebody holds it.
    pub(crate) fn is_held(folder: &VmFolder) -> Result<bool> {
        let path = folder.lazy_lock();
        Flock::is_held(&path).map_err(|error| cannot_lock(&path, error))
    }

    /// A descriptor of the same lock, for a child that is to hold it on.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        self.0.inherit().context(|| "cannot share the page server's lock".into())
    }

    /// Writes down who serves, for whoever has to end them.
    pub(crate) fn name(&mut self, servers: &Servers) -> Result<()> {
        let bytes = serde_json::to_vec(servers).context(|| "cannot encode the page server's note".into())?;
        let file = self.0.file();
        let write = || {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)
        };
        write().context(|| "cannot write the page server's note".into())
    }
}

impl Servers {
    /// Those who are written down.
    pub(crate) fn load(folder: &VmFolder) -> Self {
        let mut bytes = Vec::new();
        let read = File::open(folder.lazy_lock()).and_then(|file| file.take(4096).read_to_end(&mut bytes));
        read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}
