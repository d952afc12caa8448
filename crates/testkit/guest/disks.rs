//! Counters on disk that prove of which instant a disk is, and that two disks are of the same one.
//!
//! The counter is written and synced to the first disk, then to the second, then counted as done. So at every
//! instant `done <= counter on a disk <= in flight`, and the first disk is ahead of the second by 0 or 1; a captured
//! disk of another instant than its memory, or than the other disk, breaks one of the two.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::{Guest, lock, say};

const BLOCK_BYTES: usize = 4096;
const O_DIRECT: i32 = 0o40000;

/// The counter as memory knows it.
pub(crate) struct Progress {
    done: AtomicU64,
    in_flight: AtomicU64,
    hold: Mutex<()>,
}

impl Progress {
    pub(crate) fn starting_at(counter: u64) -> Self {
        Self { done: AtomicU64::new(counter), in_flight: AtomicU64::new(counter), hold: Mutex::new(()) }
    }

    /// Keeps the next counter from being begun.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.hold)
    }

    fn begin(&self, counter: u64) {
        let _turn = lock(&self.hold);
        self.in_flight.store(counter, Ordering::SeqCst);
    }

    /// The last counter that is durable on every disk.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// The last counter whose writing was begun.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }
}

/// The mounted disks, and the counters found on them at start.
pub(crate) struct Disks {
    disks: Vec<Disk>,
}

struct Disk {
    mount: PathBuf,
    counter: Option<File>,
    found: u64,
}

impl Disks {
    /// Opens the counter on each of `mounts` that is a mounted disk.
    pub(crate) fn open(mounts: [&str; 2]) -> Self {
        let mounted = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let is_mounted = |mount: &&str| mounted.lines().any(|line| line.split(' ').nth(1) == Some(*mount));
        Self { disks: mounts.iter().copied().filter(is_mounted).map(Disk::open).collect() }
    }

    /// The counter found on disk number `index` at start, if there is such a disk.
    pub(crate) fn found(&self, index: usize) -> Option<u64> {
        self.disks.get(index).map(|disk| disk.found)
    }

    pub(crate) fn newest_found(&self) -> u64 {
        self.disks.iter().map(|disk| disk.found).max().unwrap_or(0)
    }

    /// Reads the counter of disk number `index` from the disk itself, past the page cache.
    ///
    /// `None` without such a disk; an error where the file is gone or is no counter.
    pub(crate) fn read_back(&self, index: usize) -> Option<io::Result<u64>> {
        self.disks.get(index).map(|disk| read_counter(&disk.counter_path()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    /// Closes every file, so that the file systems can be unmounted.
    pub(crate) fn close(&mut self) {
        for disk in &mut self.disks {
            disk.counter = None;
        }
    }

    /// Deletes every file on every disk, as a failure would; the counters stop.
    pub(crate) fn damage(&mut self) -> io::Result<()> {
        self.close();
        for disk in &self.disks {
            for entry in fs::read_dir(&disk.mount)? {
                let path = entry?.path();
                if path.is_file() {
                    fs::remove_file(path)?;
                }
            }
            File::open(&disk.mount)?.sync_all()?;
        }
        Ok(())
    }

    fn write(&self, counter: u64) -> io::Result<()> {
        let mut block = [b' '; BLOCK_BYTES];
        let text = format!("{counter}\n");
        block[..text.len()].copy_from_slice(text.as_bytes());
        block[BLOCK_BYTES - 1] = b'\n';
        for file in self.disks.iter().filter_map(|disk| disk.counter.as_ref()) {
            file.write_all_at(&block, 0)?;
            file.sync_data()?;
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.disks.iter().any(|disk| disk.counter.is_some())
    }
}

impl Disk {
    fn open(mount: &str) -> Self {
        let mut disk = Self { mount: PathBuf::from(mount), counter: None, found: 0 };
        disk.found = read_counter(&disk.counter_path()).unwrap_or(0);
        match OpenOptions::new().write(true).create(true).truncate(false).open(disk.counter_path()) {
            Ok(file) => disk.counter = Some(file),
            Err(error) => say(&format!("DISKERR open {mount}: {error}")),
        }
        disk
    }

    fn counter_path(&self) -> PathBuf {
        self.mount.join("counter")
    }
}

/// Counts on all disks, for ever; ends when there is none.
pub(crate) fn count(guest: &Guest, interval: Duration) {
    if lock(&guest.disks).is_empty() {
        return;
    }
    loop {
        count_once(guest);
        thread::sleep(interval);
    }
}

fn count_once(guest: &Guest) {
    let disks = lock(&guest.disks);
    if !disks.is_open() {
        return;
    }
    let counter = guest.progress.done() + 1;
    guest.progress.begin(counter);
    match disks.write(counter) {
        Ok(()) => guest.progress.done.store(counter, Ordering::SeqCst),
        Err(error) => say(&format!("DISKERR {counter}: {error}")),
    }
}

/// A buffer as `O_DIRECT` wants it.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

fn read_counter(path: &Path) -> io::Result<u64> {
    let mut block = Block([0; BLOCK_BYTES]);
    let mut file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path)?;
    let length = file.read(&mut block.0)?;
    let text = String::from_utf8_lossy(&block.0[..length]);
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a counter"))
}
