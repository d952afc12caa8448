//! The record of a background job: what it is about, which its kind says, and how it ended where it ended badly; and how far it
//! is, for people.
//!
//! Several write it: the command that begins the job, its worker, its supervisor. Each changes what is there, one after
//! the other, so that none takes back what another has said ([`Record::change`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmrewind_files::{Flock, Kind as LockKind, Wait};

use super::{Job, Lasts};
use crate::error::{Error, ErrorKind, Result};
use crate::record::RECORD_VERSION;
use crate::root::VmFolder;
use crate::vm::run_folder;

/// How long another writer is waited for. One that was stopped in the middle of it must not stop all others.
const WRITER_PATIENCE: Wait = Wait::AtMost(Duration::from_secs(1));

/// A job as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record<J> {
    /// The format's version.
    pub(super) version: u32,
    /// What it is about.
    #[serde(flatten)]
    pub(crate) job: J,
    /// The last worker's bug, if it met one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) panic: Option<Panic>,
    /// Why it can't be done.
    pub(crate) failure: Option<Failure>,
}

/// A panic of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Panic {
    /// The worker's process.
    pub(super) pid: u32,
    /// What, and where in the program.
    pub(super) message: String,
}

/// Why a job can't be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Whether data was found damaged; otherwise it could not be read.
    pub(crate) damaged: bool,
    /// What happened, with its causes.
    pub(crate) message: String,
}

impl Failure {
    /// What the caller can do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        if self.damaged { ErrorKind::Damaged } else { ErrorKind::Failed }
    }

    /// What a worker's error says.
    pub(super) fn of(error: &Error) -> Self {
        Self { damaged: error.kind() == ErrorKind::Damaged, message: error.in_one_line() }
    }
}

impl<J: Job> Record<J> {
    /// The record of a job that begins.
    pub(crate) fn of(job: J) -> Self {
        Self { version: RECORD_VERSION, job, panic: None, failure: None }
    }

    /// Reads the record of the VM in `folder`.
    ///
    /// # Errors
    /// `Damaged` and `Refused` as any record; never where it lasts until a reboot only. That is not synced, and a worker that
    /// lives has it in memory.
    pub(crate) fn load(folder: &VmFolder) -> Result<Option<Self>> {
        let found = folder.files().read_json(&J::KIND.home(folder).join(J::KIND.record), RECORD_VERSION);
        match J::KIND.lasts {
            Lasts::UntilReboot => Ok(found.unwrap_or_default()),
            Lasts::Durably => found,
        }
    }

    /// Reads the record of a job that has not failed.
    pub(super) fn under_way(folder: &VmFolder) -> Result<Option<Self>> {
        Ok(Self::load(folder)?.filter(|record| record.failure.is_none()))
    }

    /// Writes the record in place of any other; whole, or not at all.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        let _turn = turn::<J>(folder);
        self.write(folder)
    }

    /// Changes what is there, where another writer can have changed it a moment ago.
    pub(crate) fn change(folder: &VmFolder, change: impl FnOnce(Option<Self>) -> Option<Self>) -> Result<()> {
        let _turn = turn::<J>(folder);
        match change(Self::load(folder)?) {
            Some(record) => record.write(folder),
            None => Ok(()),
        }
    }

    /// Removes the record if it is still this job's. Another command can have begun the next one since it was read.
    pub(crate) fn remove_this(&self, folder: &VmFolder) -> Result<()> {
        let _turn = turn::<J>(folder);
        let found = Self::load(folder)?;
        if found.is_some_and(|found| found.job.is_same(&self.job)) { Self::erase(folder) } else { Ok(()) }
    }

    /// Removes the record.
    pub(crate) fn remove(folder: &VmFolder) -> Result<()> {
        let _turn = turn::<J>(folder);
        Self::erase(folder)
    }

    /// Draws the conclusion of a failure once more. What hinders it shows when somebody needs it.
    pub(super) fn conclude(&self, folder: &VmFolder) {
        if let Err(error) = self.job.failed(folder) {
            tracing::info!("{}", error.in_one_line());
        }
    }

    fn write(&self, folder: &VmFolder) -> Result<()> {
        let path = J::KIND.home(folder).join(J::KIND.record);
        match J::KIND.lasts {
            Lasts::UntilReboot => folder.files().write_volatile(&path, self),
            Lasts::Durably => folder.files().write_json(&path, self),
        }
    }

    fn erase(folder: &VmFolder) -> Result<()> {
        if let Some(run) = run_folder::existing(folder) {
            folder.files().remove_file(&run.join(J::KIND.progress))?;
        }
        let path = J::KIND.home(folder).join(J::KIND.record);
        folder.files().remove_file(&path)?;
        match J::KIND.lasts {
            Lasts::UntilReboot => Ok(()),
            Lasts::Durably => folder.files().sync_parent(&path),
        }
    }
}

/// The right to write the record, as long as it is held.
///
/// Nothing where it can't be had: of two who write at once what one says can be lost then, which is better than a guest that waits
/// for one that was stopped.
fn turn<J: Job>(folder: &VmFolder) -> Option<Flock> {
    let path = J::KIND.home(folder).join(format!("{}.lock", J::KIND.record));
    Flock::take(&path, LockKind::Exclusive, WRITER_PATIENCE).ok().flatten()
}

/// Writes down why a job can't be done, and has it draw the conclusion.
pub(super) fn give_up<J: Job>(folder: &VmFolder, known: &Record<J>, failure: Failure) -> Result<()> {
    let mut job = known.job.clone();
    let saved = Record::change(folder, |found| {
        // What the command has told since it was read counts for the conclusion, too.
        let record = found.unwrap_or_else(|| known.clone());
        job = record.job.clone();
        Some(Record { failure: Some(failure), ..record })
    });
    // Also where it could not be written down, on a full disk say.
    job.failed(folder)?;
    saved
}

/// How far a job is, as its worker writes it now and then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Bytes done.
    pub(crate) done_bytes: u64,
    /// Bytes in all.
    pub(crate) total_bytes: u64,
}

impl Progress {
    /// Reads it; nothing where there is none.
    pub(crate) fn load<J: Job>(folder: &VmFolder) -> Self {
        let run = run_folder::existing(folder).unwrap_or_else(|| folder.run());
        let bytes = std::fs::read(run.join(J::KIND.progress)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes it.
    pub(super) fn save<J: Job>(self, folder: &VmFolder) -> Result<()> {
        let run = run_folder::existing(folder).unwrap_or_else(|| folder.run());
        folder.files().write_volatile(&run.join(J::KIND.progress), &self)
    }
}
