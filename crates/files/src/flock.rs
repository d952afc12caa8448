//! Locks of files (`flock`), given up by the kernel with the last descriptor, however its holder ended.
//!
//! A lock is of an open file, not of a name. The file can be renamed, or removed and made anew, between its opening and its
//! locking: [`Flock::is_current`] tells whether it is still what a path names, and whoever removes such files holds them.
//! A child that gets a descriptor of the lock ([`Flock::inherit`]) holds it on.
//!
//! A shared lock is also the way to look whether anybody holds the file ([`Flock::is_held`]). That keeps others out for a
//! moment, so who wants the lock for itself waits out those who only look ([`Wait::AtMost`]).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::real::open_regular;

/// Time between two attempts to take a lock that others have.
const POLL: Duration = Duration::from_millis(5);

/// Who else can have the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Others who share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// What to do about others who have the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Give up at once.
    No,
    /// Wait, but not longer than this.
    AtMost(Duration),
    /// Wait until they have given it up.
    Forever,
}

/// A lock that is held as long as this lives, or a descriptor made by [`Flock::inherit`].
#[derive(Debug)]
pub struct Flock {
    file: File,
}

impl Flock {
    /// Locks the file at `path`, which is made where it is missing. `None` where others have it.
    ///
    /// # Errors
    /// What the system says; `InvalidData` where something else than a file is there.
    pub fn take(path: &Path, kind: Kind, wait: Wait) -> io::Result<Option<Self>> {
        Self::of(open_regular(path, OFlags::RDWR | OFlags::CREATE)?, kind, wait)
    }

    /// Locks the file at `path` if there is one. `None` where there is none, or others have it.
    ///
    /// # Errors
    /// As [`Flock::take`].
    pub fn take_existing(path: &Path, kind: Kind, wait: Wait) -> io::Result<Option<Self>> {
        match open_regular(path, OFlags::RDWR) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => Self::of(file?, kind, wait),
        }
    }

    /// Locks a file that is open. `None` where others have it: they opened it by themselves.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(file: File, kind: Kind, wait: Wait) -> io::Result<Option<Self>> {
        let locked = match wait {
            Wait::No => try_lock(&file, kind)?,
            Wait::AtMost(patience) => lock_within(&file, kind, patience)?,
            Wait::Forever => lock(&file, kind).map(|()| true)?,
        };
        Ok(locked.then_some(Self { file }))
    }

    /// Whether anybody holds the file at `path`, for himself or shared with others who hold it on.
    ///
    /// # Errors
    /// As [`Flock::take`].
    pub fn is_held(path: &Path) -> io::Result<bool> {
        match open_regular(path, OFlags::RDWR) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            file => Ok(!try_lock(&file?, Kind::Shared)?),
        }
    }

    /// Whether the locked file is the one that `path` names now.
    ///
    /// # Errors
    /// What the system says; that nothing is there is no error.
    pub fn is_current(&self, path: &Path) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Another descriptor of the same lock, for a child that is to hold it on.
    ///
    /// # Errors
    /// Where there are no more descriptors.
    pub fn inherit(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The locked file, which holds the lock from now on.
    pub fn into_file(self) -> File {
        self.file
    }
}

fn operation(kind: Kind, waits: bool) -> FlockOperation {
    match (kind, waits) {
        (Kind::Shared, true) => FlockOperation::LockShared,
        (Kind::Shared, false) => FlockOperation::NonBlockingLockShared,
        (Kind::Exclusive, true) => FlockOperation::LockExclusive,
        (Kind::Exclusive, false) => FlockOperation::NonBlockingLockExclusive,
    }
}

fn lock(file: &File, kind: Kind) -> io::Result<()> {
    loop {
        match flock(file, operation(kind, true)) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

fn try_lock(file: &File, kind: Kind) -> io::Result<bool> {
    match flock(file, operation(kind, false)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn lock_within(file: &File, kind: Kind, patience: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        if try_lock(file, kind)? {
            return Ok(true);
        }
        let left = patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(left.min(POLL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Wait = Wait::AtMost(Duration::from_secs(600));

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        (dir, path)
    }

    /// Guards against two writers: the exclusive lock keeps all others out, the shared one its kind in.
    #[test]
    fn locks_shut_out_whom_they_should() {
        let (_dir, path) = file();
        let take = |kind| Flock::take(&path, kind, Wait::No).unwrap();
        assert!(Flock::take_existing(&path, Kind::Shared, Wait::No).unwrap().is_none(), "none was made");
        assert!(!path.exists() && !Flock::is_held(&path).unwrap());
        let shared = [take(Kind::Shared), take(Kind::Shared)];
        assert!(shared.iter().all(Option::is_some));
        assert!(take(Kind::Exclusive).is_none());
        drop(shared);
        let exclusive = take(Kind::Exclusive);
        assert!(exclusive.is_some() && take(Kind::Shared).is_none());
        assert!(Flock::is_held(&path).unwrap());
        drop(exclusive);
        assert!(!Flock::is_held(&path).unwrap());
    }

    /// Guards a QEMU that lives on: what it inherited must count when the one who took the lock is gone.
    #[test]
    fn whoever_inherits_holds_it_on() {
        let (_dir, path) = file();
        let lock = Flock::take(&path, Kind::Exclusive, Wait::No).unwrap().unwrap();
        let inherited = lock.inherit().unwrap();
        drop(lock);
        assert!(Flock::is_held(&path).unwrap());
        drop(inherited);
        assert!(!Flock::is_held(&path).unwrap());
    }

    /// Guards those who want the lock from those who only look: these hold it for moments again and again.
    #[test]
    fn those_who_look_are_waited_out() {
        let (_dir, path) = file();
        drop(Flock::take(&path, Kind::Exclusive, Wait::No).unwrap());
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    Flock::is_held(&path).unwrap();
                }
            });
            let taken =
                (0..100).filter(|_| Flock::take(&path, Kind::Exclusive, LONG).unwrap().is_some()).count();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(taken, 100);
        });
    }

    /// Guards a lock that was waited for while its file was removed: it keeps nobody from the new one.
    #[test]
    fn a_lock_of_a_file_that_went_is_known() {
        let (_dir, path) = file();
        for wait in [Wait::Forever, LONG] {
            let held = Flock::take(&path, Kind::Exclusive, Wait::No).unwrap().unwrap();
            assert!(held.is_current(&path).unwrap());
            let late = std::thread::scope(|scope| {
                // Opened before the file goes, as the waiter of a real race has.
                let file = open_regular(&path, OFlags::RDWR).unwrap();
                let waiting = scope.spawn(move || Flock::of(file, Kind::Exclusive, wait));
                std::fs::remove_file(&path).unwrap();
                drop(held);
                waiting.join().unwrap().unwrap().unwrap()
            });
            assert!(!late.is_current(&path).unwrap());
            std::fs::write(&path, "").unwrap();
            assert!(!late.is_current(&path).unwrap());
        }
    }

    /// Guards a lock's name against what else could be there: it must neither wait for ever nor lock something else.
    #[test]
    fn only_a_file_is_locked() {
        let (dir, path) = file();
        std::os::unix::fs::symlink(dir.path().join("other"), &path).unwrap();
        let error = Flock::take(&path, Kind::Exclusive, Wait::No).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(!dir.path().join("other").exists());
    }
}
