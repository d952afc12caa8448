//! The lock of a VM: one writer at a time, given up by the kernel when its holder dies.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind, Result};
use crate::root::file::io_error;

/// How long a command waits for one that is about to end, before it reports the VM as busy.
const PATIENCE: Duration = Duration::from_millis(300);

/// Holds a VM for writing until dropped.
#[derive(Debug)]
pub(crate) struct VmLock {
    _file: File,
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

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        let cannot = |error| io_error(&format!("cannot lock '{}'", path.display()), error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(cannot)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(cannot(error.into())),
        }
    }
}
