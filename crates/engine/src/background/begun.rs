//! A background job as the command has it that began it.

use std::process::{Child, ChildStdin};

use super::lock::Lock;
use super::supervisor::Role;
use super::{Charge, Job, Log, Record, end};
use crate::error::{Error, Result};
use crate::root::VmFolder;
use crate::vm::reap::reap;

/// A job that was begun by this process; it goes on when this is dropped.
pub(crate) struct Begun<J: Job> {
    job: J,
    child: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl<J: Job> Begun<J> {
    /// Writes the job's record and starts its processes. There must be none of an earlier one: see [`end`].
    ///
    /// The workers of a job that is not told to the end see by their standard input, a pipe, whether this command lives.
    ///
    /// # Errors
    /// Where either can't be done. A record that was written is left: the next command removes it, or goes on with it.
    pub(crate) fn begin(charge: &Charge, job: J) -> Result<Self> {
        Record::of(job.clone()).save(&charge.folder)?;
        let (child, pipe) = charge.start::<J>(Role::Begin)?;
        Ok(Self { job, child: Some(child), pipe })
    }

    /// Tells more about the job. What others have said meanwhile, a failure above all, stays. Where a job that was begun has no
    /// record any more it is over, and stays so.
    ///
    /// # Errors
    /// Where the record can't be written.
    pub(crate) fn tell(&mut self, folder: &VmFolder, change: impl FnOnce(&mut J)) -> Result<()> {
        let was_begun = self.job.is_begun();
        change(&mut self.job);
        let job = self.job.clone();
        Record::change(folder, |found| match found {
            Some(found) => Some(Record { job, ..found }),
            None => (!was_begun).then(|| Record::of(job)),
        })
    }

    /// Whether somebody still works on it.
    ///
    /// # Errors
    /// Where the lock can't be looked at.
    pub(crate) fn is_alive(&mut self, folder: &VmFolder) -> Result<bool> {
        let supervised = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        Ok(supervised || Lock::is_held(&J::KIND, folder)?)
    }

    /// Ends it: it is not wanted any more. Its log says why; nothing else is left of it, a failure neither, of which no other
    /// command shall draw a conclusion.
    ///
    /// # Errors
    /// As [`end`], and where the record can't be removed.
    pub(crate) fn give_up(mut self, folder: &VmFolder, why: &Error) -> Result<()> {
        Log::open(&J::KIND, folder, "command").say(format_args!("given up: {}", why.in_one_line()));
        drop(self.pipe.take());
        end::<J>(folder)?;
        Record::<J>::remove(folder)
    }
}

impl<J: Job> Drop for Begun<J> {
    /// The job goes on.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            reap(child);
        }
    }
}
