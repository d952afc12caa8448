//! A storage whose operation of a chosen number fails with a chosen error, over any other storage; or that fails to read
//! a file.
//!
//! Only that operation fails, and it changes nothing: whoever goes on as if nothing had happened is seen in the log.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmrewind_store::{LockKind, Storage, StorageFile};

/// An operation that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A file was created.
    Create,
    /// A file was written to.
    Write,
    /// A file's content was synced.
    Sync,
    /// A file was renamed.
    Rename,
    /// A file was removed.
    Remove,
    /// The names were synced.
    SyncDir,
}

/// A storage of which one operation fails.
#[derive(Clone)]
pub struct FaultStorage {
    inner: Arc<dyn Storage>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Operation>,
    /// Number of the operation that fails, and the system's error number.
    fault: Option<(usize, i32)>,
    /// Number of the operation from which on there is no room.
    full_from: Option<usize>,
    /// Name of the file that can't be read, and the system's error number.
    unreadable: Option<(String, i32)>,
}

impl Operation {
    fn may_take_room(self) -> bool {
        // Blocks can be allocated as late as in a file's sync, and a longer name can need a longer folder.
        matches!(self, Operation::Create | Operation::Write | Operation::Sync | Operation::Rename)
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.full_from.is_some_and(|from| self.log.len() > from)
    }
}

impl FaultStorage {
    /// Puts a storage without faults over `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> FaultStorage {
        FaultStorage { inner, state: Arc::default() }
    }

    /// Lets the operation of that number, counted from 0, fail with the system's error `errno`.
    pub fn fail_at(&self, operation: usize, errno: i32) {
        self.state().fault = Some((operation, errno));
    }

    /// Lets the disk be full from the operation of that number on: whatever may take room fails, removing and the sync of
    /// the names do not.
    pub fn fill_at(&self, operation: usize) {
        self.state().full_from = Some(operation);
    }

    /// Makes room on the full disk.
    pub fn make_room(&self) {
        self.state().full_from = None;
    }

    /// Lets reads of the file `name` fail with the system's error `errno`, through handles that are open too.
    pub fn fail_reads_of(&self, name: &str, errno: i32) {
        self.state().unreadable = Some((name.to_owned(), errno));
    }

    /// Returns all operations so far, the failed one included.
    pub fn log(&self) -> Vec<Operation> {
        self.state().log.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        state.log.push(operation);
        match state.fault {
            Some((at, errno)) if at + 1 == state.log.len() => Err(io::Error::from_raw_os_error(errno)),
            _ if state.is_full() && operation.may_take_room() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn wrap(&self, name: &str, inner: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(FaultFile { storage: self.clone(), name: name.to_owned(), inner })
    }
}

impl Storage for FaultStorage {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.begin(Operation::Create)?;
        self.inner.create(name).map(|file| self.wrap(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.inner.open(name).map(|file| self.wrap(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.begin(Operation::Rename)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.begin(Operation::Remove)?;
        self.inner.remove(name)
    }

    fn remove_abandoned(&self, name: &str) -> io::Result<Option<u64>> {
        self.begin(Operation::Remove)?;
        self.inner.remove_abandoned(name)
    }

    fn create_empty(&self, name: &str) -> io::Result<()> {
        self.begin(Operation::Create)?;
        self.inner.create_empty(name)
    }

    fn lock(
        &self,
        name: &str,
        kind: LockKind,
        wait: Option<Duration>,
    ) -> io::Result<Option<Box<dyn StorageFile>>> {
        Ok(self.inner.lock(name, kind, wait)?.map(|file| self.wrap(name, file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.begin(Operation::SyncDir)?;
        self.inner.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }

    fn locate(&self, name: &str) -> String {
        self.inner.locate(name)
    }
}

/// An open file of a [`FaultStorage`].
struct FaultFile {
    storage: FaultStorage,
    /// The name that it was opened by.
    name: String,
    inner: Box<dyn StorageFile>,
}

impl StorageFile for FaultFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if let Some((name, errno)) = &self.storage.state().unreadable
            && *name == self.name
        {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.storage.begin(Operation::Write)?;
        self.inner.write_at(offset, data)
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.start_writeback(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.storage.begin(Operation::Sync)?;
        self.inner.sync()
    }
}
