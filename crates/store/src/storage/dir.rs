//! A folder of the file system as [`Storage`].
//!
//! Files hold guests' memory, so they are created for their owner only (mode 0600, the folder 0700). A file that is
//! being written is held by an exclusive `flock`, which the kernel releases when the process dies: a file without lock
//! under a temporary name has no writer any more. The lock belongs to the file, not to the name: a rename keeps it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Advice, OFlags};
use vmrewind_files::{Flock, Kind, Wait};

use super::{LockKind, Storage, StorageFile};

/// Attempts to create a file that sweeps of other processes keep removing before it is locked.
const CREATE_ATTEMPTS: usize = 16;

/// A folder that holds a store's files.
#[derive(Debug)]
pub struct DirStorage {
    path: PathBuf,
    /// The folder itself, for syncing.
    dir: File,
}

impl DirStorage {
    /// Opens the folder at `path`, creating it (not its parents) when it is missing.
    ///
    /// A created folder is durable when this returns.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<DirStorage> {
        let path = path.into();
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync_parent(&path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let dir = File::open(&path)?;
        if !dir.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(DirStorage { path, dir })
    }

    /// Opens a file for reading. Nothing but a file of the folder's own is opened: a link, which could lead anywhere, is
    /// refused, and a pipe that somebody put there does not make the caller wait for its writer.
    fn open_file(&self, name: &str) -> io::Result<File> {
        let how = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        OpenOptions::new().read(true).custom_flags(how).open(self.file_path(name)?)
    }

    fn file_path(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.path.join(name))
    }
}

impl Storage for DirStorage {
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.file_path(name)?;
        for _ in 0..CREATE_ATTEMPTS {
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            // Between creation and lock, a sweep may have taken the file for abandoned: it holds the lock for a moment,
            // and the file has no name afterwards.
            let lock = Flock::of(file, Kind::Exclusive, Wait::Forever)?;
            if let Some(lock) = lock
                && lock.file().metadata()?.nlink() > 0
            {
                return Ok(Box::new(DirFile { file: lock.into_file() }));
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(DirFile { file: self.open_file(name)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.file_path(from)?, self.file_path(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.file_path(name)?)
    }

    fn remove_abandoned(&self, name: &str) -> io::Result<Option<u64>> {
        let path = self.file_path(name)?;
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(lock) = Flock::of(file, Kind::Exclusive, Wait::No)? else { return Ok(None) };
        if !lock.is_current(&path)? {
            return Ok(None);
        }
        let len = lock.file().metadata()?.len();
        std::fs::remove_file(&path)?;
        Ok(Some(len))
    }

    fn create_empty(&self, name: &str) -> io::Result<()> {
        let path = self.file_path(name)?;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
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
        let path = self.file_path(name)?;
        let kind = match kind {
            LockKind::Shared => Kind::Shared,
            LockKind::Exclusive => Kind::Exclusive,
        };
        let wait = wait.map_or(Wait::Forever, Wait::AtMost);
        let Some(lock) = Flock::of(self.open_file(name)?, kind, wait)? else { return Ok(None) };
        if !lock.is_current(&path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Some(Box::new(DirFile { file: lock.into_file() })))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn locate(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// An open file of a [`DirStorage`]; closing it releases the lock of its writer.
#[derive(Debug)]
struct DirFile {
    file: File,
}

impl StorageFile for DirFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        // Linux answers this advice by starting to write the range's dirty pages, without waiting; it drops only
        // pages that are clean already, and these were just written.
        let Some(len) = NonZeroU64::new(len) else { return Ok(()) };
        Ok(rustix::fs::fadvise(&self.file, offset, Some(len), Advice::DontNeed)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> (tempfile::TempDir, DirStorage) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let storage = DirStorage::new(dir.path().join("store")).expect("a new folder");
        (dir, storage)
    }

    // The lock decides whether a temporary file is removed: it must follow the writer, not the name.
    #[test]
    fn a_held_file_is_not_removed_as_abandoned() {
        let (_dir, storage) = storage();
        let file = storage.create("a.part").expect("creating");
        file.write_at(0, b"abc").expect("writing");
        assert_eq!(storage.remove_abandoned("a.part").expect("trying"), None);
        drop(file);
        assert_eq!(storage.remove_abandoned("a.part").expect("removing"), Some(3));
        assert_eq!(storage.remove_abandoned("a.part").expect("again"), None);
        assert!(storage.list().expect("listing").is_empty());
    }

    // Guest memory holds secrets: other users may not read it.
    #[test]
    fn files_and_folder_are_private() {
        let (dir, storage) = storage();
        storage.create("a").expect("creating");
        let mode = |path: PathBuf| std::fs::metadata(path).expect("it exists").mode() & 0o777;
        assert_eq!(mode(dir.path().join("store/a")), 0o600);
        assert_eq!(mode(dir.path().join("store")), 0o700);
    }

    // Names come from ids, but the storage refuses by itself what would leave the folder.
    #[test]
    fn names_stay_inside_the_folder() {
        let (_dir, storage) = storage();
        for name in ["", "..", "../x", "a/b", "/etc/passwd"] {
            let error = storage.create(name).err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    // Whoever can write the folder could else have any file of the user read, locked or taken for an image.
    #[test]
    fn links_and_pipes_are_not_opened() {
        let (dir, storage) = storage();
        std::fs::write(dir.path().join("secret"), b"abc").expect("written");
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("store/a")).expect("linked");
        assert!(storage.open("a").is_err() && storage.lock("a", LockKind::Shared, NOW).is_err());
        assert!(storage.remove_abandoned("a").is_err());
        assert_eq!(storage.create("a").err().map(|error| error.kind()), Some(io::ErrorKind::AlreadyExists));
        let pipe = dir.path().join("store/b");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("made");
        // Not hanging is the point; there is nothing to read at an offset.
        assert!(storage.open("b").and_then(|pipe| pipe.read_at(0, &mut [0])).is_err());
        assert_eq!(std::fs::read(dir.path().join("secret")).expect("read"), b"abc");
    }

    // A taken name is reported, not overwritten.
    #[test]
    fn create_refuses_a_taken_name() {
        let (_dir, storage) = storage();
        storage.create("a").expect("creating");
        let error = storage.create("a").err().expect("refused");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    // Writers share the store's lock, gc excludes them: a lock that lets both in would lose images.
    #[test]
    fn locks_shut_out_whom_they_should() {
        let (_dir, storage) = storage();
        let missing = storage.lock("lock", LockKind::Shared, NOW).err().expect("not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for _ in 0..2 {
            storage.create_empty("lock").expect("created, or there");
        }
        let take = |kind| storage.lock("lock", kind, NOW).expect("it is there");
        let shared = [take(LockKind::Shared), take(LockKind::Shared)];
        assert!(shared.iter().all(Option::is_some));
        assert!(take(LockKind::Exclusive).is_none());
        drop(shared);
        let exclusive = take(LockKind::Exclusive);
        assert!(exclusive.is_some());
        assert!(take(LockKind::Shared).is_none() && take(LockKind::Exclusive).is_none());
        drop(exclusive);
        assert!(take(LockKind::Shared).is_some());
    }

    // Waiting for gc, or for the last writer, must end when the other lets go.
    #[test]
    fn a_lock_is_waited_for() {
        let (_dir, storage) = storage();
        storage.create_empty("lock").expect("created");
        for wait in [None, Some(Duration::from_secs(600))] {
            let held = storage.lock("lock", LockKind::Exclusive, NOW).expect("it is there");
            let got = std::thread::scope(|scope| {
                let waiting =
                    scope.spawn(|| storage.lock("lock", LockKind::Shared, wait).map(|lock| lock.is_some()));
                drop(held);
                waiting.join().expect("no panic")
            });
            assert!(got.expect("it is there"));
        }
    }

    // A reader that gets hold of an image while it is removed must not think that it keeps it.
    #[test]
    fn a_file_that_went_while_waiting_is_not_found() {
        let (_dir, storage) = storage();
        storage.create_empty("a").expect("created");
        let held = storage.lock("a", LockKind::Exclusive, NOW).expect("it is there");
        let outcome = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| storage.lock("a", LockKind::Shared, None).map(drop));
            storage.remove("a").expect("removed");
            drop(held);
            waiting.join().expect("no panic")
        });
        assert_eq!(outcome.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }

    const NOW: Option<Duration> = Some(Duration::ZERO);
}
