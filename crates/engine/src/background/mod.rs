//! Background jobs: work on a VM that goes on when the command that began it has ended.
//!
//! ```text
//!  command                 supervisor (own session, holds LOCK)     worker (inherits LOCK)
//!    RECORD written  ---->   while the job is wanted:  ---------->    does it, from whatever is there
//!    told more, or ends        worker died: another one               done: RECORD removed
//!                              died early, or panicked, 30 times:     can't be done: why into RECORD,
//!                              why into RECORD, Job::failed             Job::failed
//!  next command on the VM
//!    RECORD, and nobody holds LOCK: another supervisor; RECORD of a job that is not wanted: removed
//! ```
//! What is particular to a kind of job is its [`Job`]: the record's content, the worker's function, whether it is still
//! wanted, and what a failure means. There is at most one job of each kind on a VM; kinds share neither record nor lock.
//!
//! Guarantees: no two workers of a job at once; a job whose processes died goes on with the next command, or before that where
//! the supervisor or a [`Keeper`] lives; one that can't be done says why. Every process can be killed at any moment: a worker
//! finds out what is there, and never begins anew on the word of the record alone.

mod begun;
mod keeper;
mod lock;
mod log;
mod record;
mod shift;
mod supervisor;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use begun::Begun;
pub(crate) use keeper::Keeper;
pub(crate) use lock::end;
pub(crate) use log::Log;
pub(crate) use record::{Failure, Progress, Record};
pub(crate) use shift::{Shift, Turn};
pub(crate) use supervisor::run;
pub use supervisor::{BACKGROUND_COMMAND, BackgroundProcess};

use crate::error::{Context as _, Error, Result};
use crate::hint::Hint;
use crate::host::Helper;
use crate::ids::VmName;
use crate::root::VmFolder;
use crate::vm::reap::reap;
use crate::vm::session::own_session;
use lock::Lock;
use supervisor::Role;

/// How long a supervisor may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);

/// What is fixed of a kind of job. No two kinds have a name in common.
pub(crate) struct Kind {
    /// What the command line of its processes calls it.
    pub(crate) word: &'static str,
    /// What its processes are, for people: "page server".
    pub(crate) servant: &'static str,
    /// In the job's folder: the record.
    pub(crate) record: &'static str,
    /// In the job's folder: the lock of those who work on it.
    pub(crate) lock: &'static str,
    /// In the run folder: how far it is.
    pub(crate) progress: &'static str,
    /// In the run folder: what its processes did.
    pub(crate) log: &'static str,
    /// What must be left of the record after a power cut.
    pub(crate) lasts: Lasts,
    /// How long its processes may take to see that it is not wanted any more, before they are killed.
    pub(crate) end_patience: Duration,
}

impl Kind {
    /// The folder of its record and lock: the VM's, or the seat of the QEMU that a job is about which ends with it.
    pub(crate) fn home(&self, folder: &VmFolder) -> PathBuf {
        match self.lasts {
            Lasts::UntilReboot => folder.seat(),
            Lasts::Durably => folder.path().to_owned(),
        }
    }
}

/// How long a record has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// As long as the host runs. Nothing of it is synced, and one that can't be read counts as none.
    UntilReboot,
    /// Until the job is done: synced before anything is done on its word. One that can't be read is damage.
    #[cfg_attr(not(test), expect(dead_code, reason = "the only kind that is shipped is about a process"))]
    Durably,
}

/// A kind of job, and of one job what its record holds.
pub(crate) trait Job: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its names.
    const KIND: Kind;

    /// Whether `other` is the same job, perhaps at another time.
    fn is_same(&self, other: &Self) -> bool;

    /// Whether the command that begins it has told all: before that only the workers of this command work on it, and nothing is
    /// left of it without that command.
    fn is_begun(&self) -> bool {
        true
    }

    /// Whether there is still something to do. Asked before each start of a worker; the record of a job that nobody wants goes.
    ///
    /// # Errors
    /// Where that can't be told: nothing is started then, and nothing removed.
    fn is_wanted(&self, folder: &VmFolder) -> Result<bool>;

    /// Does the job, in a process of its own. A worker before this one can have died at any point: what it left is asked for,
    /// and gone on with.
    ///
    /// # Errors
    /// Whatever makes it impossible, for good.
    fn work(shift: &Shift<'_, Self>) -> Result<Turn>;

    /// Draws the conclusion of a failure, which the record tells already. Again and again, until it is forgotten: whoever did it
    /// before can have died in it.
    ///
    /// # Errors
    /// Where it can't be drawn now.
    fn failed(&self, folder: &VmFolder) -> Result<()>;
}

/// A VM that jobs can be under way on, and what their processes are started with.
#[derive(Clone)]
pub(crate) struct Charge {
    /// The program of the processes.
    pub(crate) helper: Helper,
    /// The root folder.
    pub(crate) root: PathBuf,
    /// The VM.
    pub(crate) vm: VmName,
    /// Its folder.
    pub(crate) folder: VmFolder,
}

impl Charge {
    fn start<J: Job>(&self, role: Role) -> Result<(Child, Option<ChildStdin>)> {
        let mut command =
            supervisor::command(&self.helper, &J::KIND, role, &self.root, (&self.vm, &self.folder));
        command.stdin(if role == Role::Begin { Stdio::piped() } else { Stdio::null() });
        let mut child = own_session(&mut command)
            .spawn()
            .context(|| format!("cannot start a process of the {}", J::KIND.servant))?;
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }

    /// Starts the processes of a job under way again, where all have died; removes its record where it is not wanted any more.
    /// Says whether they were started.
    fn revive<J: Job>(&self) -> Result<bool> {
        let folder = &self.folder;
        if Lock::is_held(&J::KIND, folder)? {
            return Ok(false);
        }
        let Some(record) = Record::<J>::under_way(folder)? else { return Ok(false) };
        if !record.job.is_begun() || !record.job.is_wanted(folder)? {
            return record.remove_this(folder).map(|()| false);
        }
        let (child, _) = self.start::<J>(Role::Revive)?;
        reap(child);
        let deadline = Instant::now() + BEGIN_PATIENCE;
        while Record::<J>::load(folder)?.is_some() && !Lock::is_held(&J::KIND, folder)? {
            if Instant::now() >= deadline {
                return Err(Error::failed(format!("the {} does not start", J::KIND.servant))
                    .with_hint(Hint::TryAgain));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }
}

/// What became of a job that was looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// There is none under way.
    Nothing,
    /// Somebody works on it, or it was not wanted any more and is gone.
    AsItWas,
    /// Its processes were started again.
    Revived,
}

/// Takes a job on where nobody works on it any more: its processes are started again, or, where it is not wanted, its record is
/// removed. With `held` the VM's lock is held, so that no command is about to begin one.
///
/// # Errors
/// Where that can't be told or done, or a record that must last is damaged.
pub(crate) fn adopt<J: Job>(charge: &Charge, held: bool) -> Result<Adopted> {
    let Some(record) = Record::<J>::load(&charge.folder)? else { return Ok(Adopted::Nothing) };
    if record.failure.is_some() {
        // Who wrote the failure down can have died right after that.
        record.conclude(&charge.folder);
        return Ok(Adopted::Nothing);
    }
    let can_be = record.job.is_begun() || held;
    Ok(if can_be && charge.revive::<J>()? { Adopted::Revived } else { Adopted::AsItWas })
}

/// The job that is under way on a VM, if there is one that is begun.
///
/// # Errors
/// `Damaged`, for a record that must last.
pub(crate) fn under_way<J: Job>(folder: &VmFolder) -> Result<Option<J>> {
    Ok(Record::<J>::under_way(folder)?.map(|record| record.job).filter(Job::is_begun))
}

/// The last job, where it failed and was not forgotten since.
///
/// # Errors
/// `Damaged`, for a record that must last.
pub(crate) fn failure<J: Job>(folder: &VmFolder) -> Result<Option<(J, Failure)>> {
    Ok(Record::<J>::load(folder)?.and_then(|record| Some((record.job, record.failure?))))
}

/// Forgets a job that failed.
///
/// # Errors
/// Where its record can't be removed.
pub(crate) fn forget_failure<J: Job>(folder: &VmFolder) -> Result<()> {
    if failure::<J>(folder)?.is_some() { Record::<J>::remove(folder) } else { Ok(()) }
}
