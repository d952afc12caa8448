//! A storage in memory that can lose power at any operation.
//!
//! ```text
//!   write ──▶ pending of the file ──sync──▶ durable content
//!   create, rename, remove ──▶ pending names ──sync_dir──▶ durable names
//! ```
//!
//! After a crash, every pending write is there, lost, or torn into sectors of which some are there; of the pending
//! changes to names any subset is there. A sync makes a file's content durable but not its name, and the other way round.
//! This is stricter than file systems are, which keep more order than they promise.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmrewind_store::{LockKind, Storage, StorageFile};

use super::SeededRandom;
use super::disk::{Disk, File, NameChange, Write};

/// Longest wait for a lock before the power is looked at again.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// A storage in memory that can lose power.
#[derive(Debug, Clone, Default)]
pub struct CrashStorage {
    disk: Arc<Mutex<Disk>>,
    /// Notified when a lock is released.
    released: Arc<Condvar>,
}

impl CrashStorage {
    /// Makes an empty storage with the power on.
    pub fn new() -> CrashStorage {
        CrashStorage::default()
    }

    /// Lets the power fail at the operation of that number, counted from 0: it may have happened or not, and nothing
    /// works afterwards.
    pub fn fail_power_at(&self, operation: u64) {
        self.disk().power_fails_at = Some(operation);
    }

    /// Makes all syncs do nothing, to check that a test notices missing ones.
    pub fn let_syncs_lie(&self) {
        self.disk().syncs_lie = true;
    }

    /// Returns how many operations changed something.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Returns a storage as the machine may find it after losing power now; `seed` determines what is lost.
    pub fn after_crash(&self, seed: u64) -> CrashStorage {
        let found = self.disk().after_crash(&mut SeededRandom::new(seed));
        CrashStorage { disk: Arc::new(Mutex::new(found)), released: Arc::default() }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A test that failed while it held the lock has reported that already.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: usize, holds: Option<LockKind>) -> Box<dyn StorageFile> {
        Box::new(Handle { storage: self.clone(), file, holds })
    }
}

impl Storage for CrashStorage {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let outcome = disk.begin()?;
        let file = disk.files.len();
        disk.files.push(File { is_held: true, ..File::default() });
        disk.change_names(NameChange::Link(name.to_owned(), file));
        drop(disk);
        outcome.map(|()| self.handle(file, Some(LockKind::Exclusive)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = self.disk().find(name)?;
        Ok(self.handle(file, None))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let file = disk.find(from)?;
        let outcome = disk.begin()?;
        disk.change_names(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        outcome
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.find(name)?;
        let outcome = disk.begin()?;
        disk.change_names(NameChange::Unlink(name.to_owned()));
        outcome
    }

    fn remove_abandoned(&self, name: &str) -> io::Result<Option<u64>> {
        let found = {
            let disk = self.disk();
            disk.find(name)
                .ok()
                .map(|file| &disk.files[file])
                .filter(|file| file.is_free())
                .map(|file| file.content.len() as u64)
        };
        if found.is_some() {
            self.remove(name)?;
        }
        Ok(found)
    }

    fn create_empty(&self, name: &str) -> io::Result<()> {
        match self.create(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn lock(
        &self,
        name: &str,
        kind: LockKind,
        wait: Option<Duration>,
    ) -> io::Result<Option<Box<dyn StorageFile>>> {
        let begun = Instant::now();
        let mut disk = self.disk();
        loop {
            let at = disk.find(name)?;
            if disk.files[at].take_lock(kind) {
                drop(disk);
                return Ok(Some(self.handle(at, Some(kind))));
            }
            let left = wait.map_or(Duration::MAX, |wait| wait.saturating_sub(begun.elapsed()));
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.released.wait_timeout(disk, left.min(LOCK_POLL));
            disk = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.check_power()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.begin()??;
        if !disk.syncs_lie {
            disk.durable_names = disk.names.clone();
            disk.pending_names.clear();
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }

    fn locate(&self, name: &str) -> String {
        format!("crash-storage:{name}")
    }
}

/// An open file; the one that created it holds it.
#[derive(Debug)]
struct Handle {
    storage: CrashStorage,
    file: usize,
    holds: Option<LockKind>,
}

impl StorageFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let disk = self.storage.disk();
        disk.check_power()?;
        Ok(disk.files[self.file].content.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let disk = self.storage.disk();
        disk.check_power()?;
        let start = position(offset)?;
        let range = start..start.saturating_add(buf.len());
        let found = disk.files[self.file].content.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = Write { offset: position(offset)?, data: data.to_vec() };
        let mut disk = self.storage.disk();
        let outcome = disk.begin()?;
        let file = &mut disk.files[self.file];
        write.apply(&mut file.content);
        file.pending.push(write);
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.storage.disk();
        disk.begin()??;
        if !disk.syncs_lie {
            let file = &mut disk.files[self.file];
            file.durable.clone_from(&file.content);
            file.pending.clear();
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(kind) = self.holds else { return };
        let mut disk = self.storage.disk();
        let file = &mut disk.files[self.file];
        match kind {
            LockKind::Shared => file.readers -= 1,
            LockKind::Exclusive => file.is_held = false,
        }
        drop(disk);
        self.storage.released.notify_all();
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::super::disk::SECTOR;
    use super::*;

    /// What a crash leaves over many seeds: listed with the whole content, listed with less, not listed.
    fn outcomes(storage: &CrashStorage, name: &str, content: &[u8]) -> (bool, bool, bool) {
        let mut seen = (false, false, false);
        for seed in 0..64 {
            let found = storage.after_crash(seed);
            match found.open(name) {
                Err(_) => seen.2 = true,
                Ok(file) => {
                    let mut bytes = vec![0; content.len()];
                    let whole = file.read_at(0, &mut bytes).is_ok() && bytes == content;
                    seen = (seen.0 | whole, seen.1 | !whole, seen.2);
                }
            }
        }
        seen
    }

    // The test double is worth something only if it really takes away what was not synced.
    #[test]
    fn only_what_was_synced_is_safe() {
        let content = vec![7; 4 * SECTOR];
        let storage = CrashStorage::new();
        let file = storage.create("a").expect("creating");
        file.write_at(0, &content).expect("writing");
        assert_eq!(outcomes(&storage, "a", &content), (true, true, true), "anything can happen");
        file.sync().expect("syncing");
        assert_eq!(outcomes(&storage, "a", &content), (true, false, true), "the name can be lost");
        storage.sync_dir().expect("syncing the names");
        assert_eq!(outcomes(&storage, "a", &content), (true, false, false), "all is durable");
        storage.rename("a", "b").expect("renaming");
        assert_eq!(outcomes(&storage, "b", &content), (true, false, true), "the new name can be lost");
    }

    // After the power failed nothing may look as if it had succeeded.
    #[test]
    fn nothing_works_without_power() {
        let storage = CrashStorage::new();
        storage.fail_power_at(1);
        let file = storage.create("a").expect("operation 0");
        assert!(file.write_at(0, b"x").is_err(), "operation 1");
        assert!(file.sync().is_err() && file.len().is_err() && storage.list().is_err());
        assert_eq!(storage.operations(), 2);
        assert!(storage.after_crash(0).list().is_ok(), "the next start has power again");
    }

    // Tests of gc beside writers rely on these locks: they must be those of a folder.
    #[test]
    fn locks_shut_out_whom_they_should() {
        let storage = CrashStorage::new();
        let take = |kind| storage.lock("lock", kind, Some(Duration::ZERO)).map(|lock| lock.is_some());
        assert_eq!(take(LockKind::Shared).expect_err("not there").kind(), io::ErrorKind::NotFound);
        storage.create_empty("lock").expect("created");
        let shared = storage.lock("lock", LockKind::Shared, None).expect("it is there");
        assert!(take(LockKind::Shared).expect("there") && !take(LockKind::Exclusive).expect("there"));
        drop(shared);
        let exclusive = storage.lock("lock", LockKind::Exclusive, None).expect("it is there");
        assert!(!take(LockKind::Shared).expect("there"));
        assert_eq!(storage.remove_abandoned("lock").expect("tried"), None, "it is held");
        drop(exclusive);
        assert!(take(LockKind::Exclusive).expect("there"));
        let created = storage.create("b").expect("created");
        assert!(storage.lock("b", LockKind::Shared, Some(Duration::ZERO)).expect("there").is_none());
        drop(created);
    }
}
