//! `lazy.json`: the lazy restore under way on a VM, or why the last one failed; and the lock of those who serve it.
//!
//! The record is about a QEMU process and means nothing once that is gone, but for a failure, which stays until the VM is
//! started or restored again. So nothing of it is synced: what a power cut takes with it has no meaning after it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::SnapshotId;
use crate::record::RECORD_VERSION;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::root::file::{io_error, read_json, remove_file};
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
        read_json(&folder.lazy(), RECORD_VERSION).ok().flatten()
    }

    /// Writes the record; whole, or not at all.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        write_volatile(&folder.lazy(), self)
    }

    /// Removes the record if it is still this one. Another command can have begun the next restore since it was read.
    pub(crate) fn remove_this(&self, folder: &VmFolder) -> Result<()> {
        let is_this = |found: &Self| found.snapshot == self.snapshot && found.qemu == self.qemu;
        if Self::load(folder).as_ref().is_some_and(is_this) { Self::remove(folder) } else { Ok(()) }
    }

    /// Removes the record.
    pub(crate) fn remove(folder: &VmFolder) -> Result<()> {
        if let Some(run) = run_folder::existing(folder) {
            remove_file(&run.join(PROGRESS))?;
        }
        remove_file(&folder.lazy()).map(drop)
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
        write_volatile(&run.join(PROGRESS), &self)
    }
}

/// Replaces a file whole, without making it last. Several processes can do so at once.
fn write_volatile<T: Serialize>(path: &std::path::Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).context(|| format!("cannot encode '{}'", path.display()))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .map_err(|error| io_error(&format!("cannot write '{}'", path.display()), error))
}

/// How long others may look whether the lock is held, before it counts as held.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// The lock of those who serve a VM's memory: the supervisor takes it, its worker inherits it.
pub(crate) struct ServerLock {
    file: File,
}

/// Who holds a [`ServerLock`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Servers {
    /// The supervisor, then its worker.
    pub(crate) processes: Vec<ProcessMark>,
}

impl ServerLock {
    /// Takes the lock if nobody holds it. Who asks [`ServerLock::is_held`] holds it for moments: those are waited out.
    pub(crate) fn try_take(folder: &VmFolder) -> Result<Option<Self>> {
        let deadline = Instant::now() + LOOK_PATIENCE;
        loop {
            let taken = Self::try_lock(folder, FlockOperation::NonBlockingLockExclusive)?;
            if taken.is_some() || Instant::now() >= deadline {
                return Ok(taken);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn try_lock(folder: &VmFolder, how: FlockOperation) -> Result<Option<Self>> {
        let path = folder.lazy_lock();
        let cannot = |error| io_error(&format!("cannot lock '{}'", path.display()), error);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(cannot)?;
        match flock(&file, how) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(cannot(error.into())),
        }
    }

    /// Whether somebody holds it.
    pub(crate) fn is_held(folder: &VmFolder) -> Result<bool> {
        let look = || Self::try_lock(folder, FlockOperation::NonBlockingLockShared);
        Ok(folder.lazy_lock().exists() && look()?.is_none())
    }

    /// A descriptor of the same lock, for a child that is to hold it on.
    pub(crate) fn share(&self) -> Result<OwnedFd> {
        let shared = self.file.try_clone().context(|| "cannot share the page server's lock".into())?;
        Ok(shared.into())
    }

    /// Writes down who serves, for whoever has to end them.
    pub(crate) fn name(&mut self, servers: &Servers) -> Result<()> {
        let bytes = serde_json::to_vec(servers).context(|| "cannot encode the page server's note".into())?;
        let mut write = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&bytes)
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
