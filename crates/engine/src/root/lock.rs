//! The lock of a VM: one writer at a time, given up by the kernel when its holder dies.

use std::path::Path;
use std::time::Duration;

use vmrewind_files::{Flock, Kind, Wait};

use crate::error::{Error, ErrorKind, Result};
use crate::root::file::io_error;

/// How long a command waits for one that is about to end, before it reports the VM as busy.
const PATIENCE: Duration = Duration::from_millis(300);

/// Holds a VM for writing until dropped.
#[derive(Debug)]
pub(crate) struct VmLock(Flock);

impl VmLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// `Busy` where another process holds it.
    pub(crate) fn take(path: &Path, vm: &str) -> Result<Self> {
        Self::take_within(path, Wait::AtMost(PATIENCE))?.ok_or_else(|| {
            Error::new(ErrorKind::Busy, format!("VM '{vm}' is busy: another operation holds it"))
                .hint("wait for the other command to end, then try again")
        })
    }

    /// Whether the lock is of the file that is at `path` now.
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        self.0.is_current(path).unwrap_or(false)
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        Self::take_within(path, Wait::No)
    }

    fn take_within(path: &Path, wait: Wait) -> Result<Option<Self>> {
        let lock = Flock::take(path, Kind::Exclusive, wait);
        lock.map(|lock| lock.map(Self)).map_err(|error| cannot_lock(path, error))
    }
}

/// The error for a file that can't be locked.
pub(crate) fn cannot_lock(path: &Path, error: std::io::Error) -> Error {
    io_error(&format!("cannot lock '{}'", path.display()), error)
}
