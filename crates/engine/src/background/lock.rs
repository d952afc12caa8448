//! The lock of those who work on a background job, and their end by others.
//!
//! The supervisor takes it, its worker inherits it: nobody else works on the job while either lives. Its file names both, for
//! whoever has to end them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmrewind_files::{Flock, Kind as LockKind, Wait};

use super::supervisor::BACKGROUND_COMMAND;
use super::{Job, Kind, Record, failure};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::root::file::cannot_lock;
use crate::vm::process::Process;

/// How long others may look whether the lock is held, before it counts as held.
const LOOK_PATIENCE: Wait = Wait::AtMost(Duration::from_secs(1));
/// How long processes that were killed may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
/// The longest note that is read.
const NOTE_BYTES_MAX: u64 = 4096;

/// The lock, as it is held.
pub(super) struct Lock(Flock);

/// Who holds a [`Lock`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Servers {
    /// The supervisor, then its worker.
    pub(super) processes: Vec<ProcessMark>,
}

fn path(kind: &Kind, folder: &VmFolder) -> PathBuf {
    kind.home(folder).join(kind.lock)
}

impl Lock {
    /// Takes the lock if nobody holds it. Who asks [`Lock::is_held`] holds it for moments: those are waited out.
    pub(super) fn try_take(kind: &Kind, folder: &VmFolder) -> Result<Option<Self>> {
        let path = path(kind, folder);
        let lock = Flock::take(&path, LockKind::Exclusive, LOOK_PATIENCE);
        lock.map(|lock| lock.map(Self)).map_err(|error| cannot_lock(&path, error))
    }

    /// Whether somebody holds it.
    pub(super) fn is_held(kind: &Kind, folder: &VmFolder) -> Result<bool> {
        let path = path(kind, folder);
        Flock::is_held(&path).map_err(|error| cannot_lock(&path, error))
    }

    /// A descriptor of the same lock, for a child that is to hold it on.
    pub(super) fn share(&self) -> Result<OwnedFd> {
        self.0.inherit().context(|| "cannot share a background job's lock".into())
    }

    /// Writes down who holds it, for whoever has to end them.
    pub(super) fn name(&self, pids: &[u32]) -> Result<()> {
        let processes = pids.iter().copied().filter_map(ProcessMark::of).collect();
        let bytes = serde_json::to_vec(&Servers { processes })
            .context(|| "cannot encode a background job's note".into())?;
        let file = self.0.file();
        let write = || {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)
        };
        write().context(|| "cannot write a background job's note".into())
    }
}

impl Servers {
    /// Those who are written down.
    pub(super) fn load(kind: &Kind, folder: &VmFolder) -> Self {
        let mut bytes = Vec::new();
        let read =
            File::open(path(kind, folder)).and_then(|file| file.take(NOTE_BYTES_MAX).read_to_end(&mut bytes));
        read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

/// Ends the processes of a job that is not wanted any more, and waits for them; its record goes, unless it tells of a failure. Does
/// nothing where there are none.
///
/// They see by themselves that they are not wanted. Those who do not in time, and those who were stopped and can't, are killed.
///
/// # Errors
/// `Busy` where one does not end by SIGKILL either.
pub(crate) fn end<J: Job>(folder: &VmFolder) -> Result<()> {
    let deadline = Instant::now() + J::KIND.end_patience;
    while Lock::is_held(&J::KIND, folder)? {
        let is_late = Instant::now() >= deadline;
        let mut doomed = Servers::load(&J::KIND, folder).processes;
        if is_late {
            // The supervisor can have been stopped or killed before it wrote down whom it had started.
            doomed.extend(holders(&J::KIND, folder));
        } else {
            doomed.retain(is_stopped);
        }
        for mark in doomed {
            let process = Process::open(mark.pid, folder.run())?;
            if let Some(process) = process.filter(|process| process.mark == mark) {
                process.kill()?;
            }
        }
        if Instant::now() >= deadline + KILL_PATIENCE {
            let what = format!("the {} of the VM does not end", J::KIND.servant);
            return Err(Error::new(ErrorKind::Busy, what)
                .with_hint(Hint::FindBackgroundProcess { lock: J::KIND.lock }));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    if failure::<J>(folder)?.is_none() { Record::<J>::remove(folder) } else { Ok(()) }
}

/// Whether a process was stopped by a signal, or by a debugger.
fn is_stopped(mark: &ProcessMark) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", mark.pid)).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't')) && ProcessMark::of(mark.pid) == Some(*mark)
}

/// The processes of the job that have its lock open, as the kernel tells. Not those who only look whether it is held: these
/// are commands.
fn holders(kind: &Kind, folder: &VmFolder) -> Vec<ProcessMark> {
    let Ok(lock) = fs::metadata(path(kind, folder)) else { return Vec::new() };
    let pid = |name: &std::ffi::OsStr| name.to_str()?.parse::<u32>().ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| pid(&entry.file_name()));
    let ours = pids.filter(|pid| is_of_kind(*pid, kind) && has_open(*pid, &lock));
    ours.filter_map(ProcessMark::of).collect()
}

fn is_of_kind(pid: u32, kind: &Kind) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.windows(2).any(|pair| pair == [BACKGROUND_COMMAND.as_bytes(), kind.word.as_bytes()])
}

fn has_open(pid: u32, file: &fs::Metadata) -> bool {
    let folder = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(Path::new(&folder)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .any(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
}
