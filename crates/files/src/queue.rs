//! Who comes first: a queue of processes that wait for the same lock.
//!
//! The kernel wakes all who wait for a `flock` at once, and who polls for it comes by luck: with many commands on one file some
//! could wait for ever. Here each takes a ticket, and only the first in the queue tries for the lock.
//!
//! ```text
//! QUEUE/17   QUEUE/18   QUEUE/21      tickets: files, each locked by the process that waits
//! ```
//! A ticket gets its name when it is locked already, so one that nobody holds is a dead process's: who stands behind it removes
//! it. Nothing here lasts or has to: after a crash of the host all tickets are dead.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::PRIVATE_DIR;
use crate::flock::{Flock, Kind, Wait};

/// A place in a queue, given up when dropped or with the process.
#[derive(Debug)]
pub struct Ticket {
    folder: PathBuf,
    number: u64,
    _lock: Flock,
}

impl Ticket {
    /// Takes the last place of the queue in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(folder: &Path) -> io::Result<Self> {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        loop {
            let unique = DRAFTS.fetch_add(1, Ordering::Relaxed);
            let draft = folder.join(format!(".{}-{unique}", std::process::id()));
            match fs::DirBuilder::new().mode(PRIVATE_DIR).create(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let lock = match Flock::take(&draft, Kind::Exclusive, Wait::No) {
                Ok(Some(lock)) => lock,
                // A process of the same number in another pid namespace.
                Ok(None) => continue,
                // The last one who left took the folder along.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let number = numbers(folder)?.into_iter().max().unwrap_or(0) + 1;
            let named = fs::hard_link(&draft, folder.join(number.to_string()));
            fs::remove_file(&draft).or_else(gone)?;
            match named {
                Ok(()) => return Ok(Self { folder: folder.to_owned(), number, _lock: lock }),
                // Another was quicker; or swept the draft, for it looked like a dead one's before it was locked.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether nobody who lives stands before this one.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_first(&self) -> io::Result<bool> {
        for number in numbers(&self.folder)? {
            if number < self.number && !remove_if_dead(&self.folder.join(number.to_string()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.join(self.number.to_string()));
        sweep_drafts(&self.folder);
        // Not empty where others wait.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Whether somebody waits in the queue in `folder`.
///
/// # Errors
/// What the system says.
pub fn is_waited_in(folder: &Path) -> io::Result<bool> {
    for number in numbers(folder)? {
        if !remove_if_dead(&folder.join(number.to_string()))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The numbers of all tickets, in any order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        // Other names are drafts.
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

/// Removes what processes left that died before their ticket had its name. One that is about to lock its own takes another.
fn sweep_drafts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            let _ = remove_if_dead(&entry.path());
        }
    }
}

/// Removes a ticket that nobody holds. Says whether it is gone.
fn remove_if_dead(path: &Path) -> io::Result<bool> {
    let Some(lock) = Flock::take_existing(path, Kind::Exclusive, Wait::No)? else {
        return Ok(!fs::exists(path)?);
    };
    // Its number can have been given again since the file was opened.
    if lock.is_current(path)? {
        fs::remove_file(path).or_else(gone)?;
    }
    Ok(true)
}

fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("queue");
        (dir, folder)
    }

    /// Guards fairness: the first who came is the first, and who leaves lets the next one on.
    #[test]
    fn who_came_first_is_first() {
        let (_dir, folder) = folder();
        assert!(!is_waited_in(&folder).unwrap());
        let [one, two, three] = [(); 3].map(|()| Ticket::take(&folder).unwrap());
        assert_eq!([&one, &two, &three].map(|ticket| ticket.is_first().unwrap()), [true, false, false]);
        // One who gives up in the middle.
        drop(two);
        assert!(!three.is_first().unwrap());
        drop(one);
        assert!(three.is_first().unwrap() && is_waited_in(&folder).unwrap());
        drop(three);
        assert!(!folder.exists(), "the last one leaves nothing behind");
    }

    /// Guards against a process that was killed while it waited: those behind it must not wait for ever.
    #[test]
    fn a_dead_one_s_place_is_nobody_s() {
        let (_dir, folder) = folder();
        let mine = Ticket::take(&folder).unwrap();
        let dead = folder.join("0");
        fs::write(&dead, "").unwrap();
        assert!(mine.is_first().unwrap() && !dead.exists());
    }

    /// Guards against two in front at once, and against a waiter that is forgotten, whatever the order of threads.
    #[test]
    fn many_at_once_are_served_one_by_one() {
        let (dir, folder) = folder();
        let lock = dir.path().join("lock");
        let served = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for at in 0..8 {
                let (folder, lock, served) = (&folder, &lock, &served);
                scope.spawn(move || {
                    for _ in 0..10 {
                        let ticket = Ticket::take(folder).unwrap();
                        let held = loop {
                            if ticket.is_first().unwrap()
                                && let Some(held) = Flock::take(lock, Kind::Exclusive, Wait::No).unwrap()
                            {
                                break held;
                            }
                            std::thread::sleep(Duration::from_micros(200));
                        };
                        served.lock().unwrap().push(at);
                        drop((held, ticket));
                    }
                });
            }
        });
        assert_eq!(served.into_inner().unwrap().len(), 80);
        assert!(!folder.exists());
    }
}
