//! The lock of a VM: one writer at a time, given up by the kernel when its holder dies.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind, Result};
use crate::root::file::io_error;

/// How long a command waits for one that is about to end, before it reports the VM as busy.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether an open file is the one that is at `path` now.
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let ours = file.metadata().map(identity).ok();
    ours.is_some() && ours == std::fs::metadata(path).map(identity).ok()
}

/// Holds a VM for writing until dropped.
#[derive(Debug)]
pub(crate) struct VmLock {
    file: File,
}

impl VmLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// `Busy` where another process holds it.
    pub(crate) fn take(path: &Path, vm: &str) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("VM '{vm}' is busy: another operation holds it"),
                )
                .hint("wait for the other command to end, then try again"));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Whether the lock is of the file that is at `path` now.
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        same_file(&self.file, path)
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        let cannot = |error| io_error(&format!("cannot lock '{}'", path.display()), error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(cannot)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(cannot(error.into())),
        }
    }
}
