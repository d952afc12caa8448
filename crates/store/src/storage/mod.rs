//! What a store needs of the place it keeps its files in.
//!
//! The trait is small so that it can be implemented strictly: [`DirStorage`] is a folder, the test kit has storages that
//! lose unsynced writes and fail at a chosen operation. Names are flat: no folders, no `/`.
//!
//! Contract of every implementation: without a sync, a crash may lose or tear any write, and drop any creation, rename
//! or removal; [`StorageFile::sync`] makes a file's content durable, [`Storage::sync_dir`] makes names durable. A rename is
//! atomic. A file can be read and written through an open handle after its name is gone.

mod dir;

use std::io;
use std::time::Duration;

pub use dir::DirStorage;
use rustix::io::Errno;

/// A flat set of named files.
pub trait Storage: Send + Sync {
    /// Creates a file for writing and holds it: until the handle is dropped, [`Storage::remove_abandoned`] leaves it
    /// alone, under whatever name. Fails with `AlreadyExists` if the name is taken.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a file for reading. Fails with `NotFound`.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Gives a file another name, atomically, replacing a file that has it. Durable after [`Storage::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Fails with `NotFound`. Durable after [`Storage::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes a file that nobody holds; returns its length, or nothing when it is held or not there.
    fn remove_abandoned(&self, name: &str) -> io::Result<Option<u64>>;

    /// Creates an empty file that nobody holds, if the name is not taken.
    fn create_empty(&self, name: &str) -> io::Result<()>;

    /// Locks a file, and returns the handle that holds the lock until it is dropped.
    ///
    /// Returns nothing when another handle, in this process or another, has kept the lock for all of `wait`; without
    /// `wait` there is no bound. Fails with `NotFound` when the file is not there, or is gone once the lock is got. A
    /// file that [`Storage::create`] holds is locked exclusively. Locks are a matter of handles, not of content: a locked
    /// file can be read, written, renamed and removed.
    fn lock(
        &self,
        name: &str,
        kind: LockKind,
        wait: Option<Duration>,
    ) -> io::Result<Option<Box<dyn StorageFile>>>;

    /// Lists all names, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes all names durable as they are.
    fn sync_dir(&self) -> io::Result<()>;

    /// Returns how many bytes can still be written.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Returns where `name` is, for messages to people.
    fn locate(&self, name: &str) -> String;
}

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Together with other shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

/// One open file of a [`Storage`].
pub trait StorageFile: Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Says whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`; fails with `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`, extending the file when needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Hints that the range will not be written again soon and can go to the disk, so that [`StorageFile::sync`] is
    /// short. Does not wait.
    fn start_writeback(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    /// Makes the content and length durable.
    fn sync(&self) -> io::Result<()>;
}

/// Says what happened where bytes could not be read because the medium has lost them, or because the file system found
/// them damaged. Any other failure says nothing of what is stored.
pub(crate) fn lost(error: &io::Error) -> Option<String> {
    let is_lost =
        matches!(Errno::from_io_error(error)?, Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::REMOTEIO);
    is_lost.then(|| format!("the storage cannot read it: {error}"))
}
