//! What a disk holds, and what a crash leaves of it: the state behind [`CrashStorage`](super::CrashStorage).

use std::collections::BTreeMap;
use std::io;

use vmrewind_store::LockKind;

use super::SeededRandom;

/// What is written to a disk as a whole or not at all, in bytes.
pub(super) const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) files: Vec<File>,
    pub(super) names: BTreeMap<String, usize>,
    pub(super) durable_names: BTreeMap<String, usize>,
    pub(super) pending_names: Vec<NameChange>,
    /// Operations so far that changed something.
    pub(super) operations: u64,
    /// The operation that the power fails at.
    pub(super) power_fails_at: Option<u64>,
    pub(super) is_off: bool,
    pub(super) syncs_lie: bool,
}

#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Write>,
    /// Handles with the shared lock.
    pub(super) readers: usize,
    /// Whether a handle has the exclusive lock.
    pub(super) is_held: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) offset: usize,
    pub(super) data: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

impl Disk {
    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.is_off { Err(power_lost()) } else { Ok(()) }
    }

    /// Counts an operation that changes something.
    ///
    /// The outer result says that the power is off; the inner one that it fails now, so that the change reaches the disk
    /// only by chance.
    pub(super) fn begin(&mut self) -> io::Result<io::Result<()>> {
        self.check_power()?;
        self.is_off = self.power_fails_at == Some(self.operations);
        self.operations += 1;
        Ok(self.check_power())
    }

    pub(super) fn find(&self, name: &str) -> io::Result<usize> {
        self.check_power()?;
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// Returns the disk as it may be found after a crash.
    pub(super) fn after_crash(&self, random: &mut SeededRandom) -> Disk {
        let files = self.files.iter().map(|file| file.after_crash(random)).collect();
        let mut names = self.durable_names.clone();
        for change in &self.pending_names {
            if random.coin() {
                change.apply(&mut names);
            }
        }
        Disk { files, durable_names: names.clone(), names, ..Disk::default() }
    }
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Link(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

impl File {
    pub(super) fn is_free(&self) -> bool {
        self.readers == 0 && !self.is_held
    }

    pub(super) fn take_lock(&mut self, kind: LockKind) -> bool {
        match kind {
            LockKind::Shared if !self.is_held => self.readers += 1,
            LockKind::Exclusive if self.is_free() => self.is_held = true,
            LockKind::Shared | LockKind::Exclusive => return false,
        }
        true
    }

    /// Returns the file as it may be found after a crash.
    pub(super) fn after_crash(&self, random: &mut SeededRandom) -> File {
        let mut content = self.durable.clone();
        for write in &self.pending {
            match random.below(3) {
                0 => {}
                1 => write.apply(&mut content),
                _ => write.sectors().filter(|_| random.coin()).for_each(|sector| sector.apply(&mut content)),
            }
        }
        File { durable: content.clone(), content, ..File::default() }
    }
}

impl Write {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        let end = self.offset + self.data.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[self.offset..end].copy_from_slice(&self.data);
    }

    pub(super) fn sectors(&self) -> impl Iterator<Item = Write> {
        let offsets = (self.offset..).step_by(SECTOR);
        offsets.zip(self.data.chunks(SECTOR)).map(|(offset, data)| Write { offset, data: data.to_vec() })
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the power is off")
}
