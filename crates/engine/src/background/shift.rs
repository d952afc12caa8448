//! One worker's turn at a background job.
//!
//! A panic in any of its threads ends the process at once: the others would go on, and whoever waits for what the dead one did
//! would wait for ever by a worker that lives. The supervisor starts another one, and the record tells of the bug.

use std::panic::PanicHookInfo;
use std::sync::Arc;

use rustix::process::{Signal, getpid, kill_process};

use super::record::{Failure, Panic, give_up};
use super::{Job, Log, Progress, Record};
use crate::error::Result;
use crate::host::Steps;
use crate::root::{Root, VmFolder};

/// What a worker has to work with.
pub(crate) struct Shift<'a, J> {
    /// The root.
    pub(crate) root: &'a Root,
    /// The VM's folder.
    pub(crate) folder: VmFolder,
    /// The job, as it was when this turn began.
    pub(crate) job: J,
    /// Whether the command that begins the job, at the other end of standard input, has not told all.
    pub(crate) is_first: bool,
    /// For whoever wants to know why.
    pub(crate) log: Log,
    steps: Option<Arc<dyn Steps>>,
}

/// How a worker's turn ended.
pub(crate) enum Turn {
    /// There is nothing left to do: the job's record can go.
    Done,
    /// Nothing can be done now. Another worker tries later.
    Later,
}

impl<J: Job> Shift<'_, J> {
    /// The job as it is now. None where it is over.
    pub(crate) fn present(&self) -> Option<J> {
        Record::load(&self.folder).ok().flatten().map(|record| record.job)
    }

    /// Writes down how far the job is. Only looked at by people, so a failure is none.
    pub(crate) fn tell(&self, progress: Progress) {
        let _ = progress.save::<J>(&self.folder);
    }

    /// Tells that a step is done.
    pub(crate) fn reached(&self, step: &'static str) {
        if let Some(steps) = &self.steps {
            steps.reached(step);
        }
    }
}

/// Works on the job that the VM's record names. Does nothing where there is none.
pub(super) fn work<J: Job>(
    root: &Root,
    folder: VmFolder,
    steps: Option<Arc<dyn Steps>>,
    is_first: bool,
) -> Result<()> {
    let Some(record) = Record::<J>::under_way(&folder)? else { return Ok(()) };
    let log = Log::open(&J::KIND, &folder, "worker");
    end_at_a_panic::<J>(folder.clone());
    let shift = Shift { root, folder, job: record.job.clone(), is_first, log, steps };
    match J::work(&shift) {
        Ok(Turn::Later) => Ok(()),
        Ok(Turn::Done) => {
            // Nobody needs it any more, whatever becomes of the record.
            if let Err(error) = Record::<J>::remove(&shift.folder) {
                shift.log.say(format_args!("the record stays: {}", error.in_one_line()));
            }
            Ok(())
        }
        Err(error) => {
            shift.log.say(format_args!("failed: {}", error.in_one_line()));
            give_up(&shift.folder, &record, Failure::of(&error))
        }
    }
}

/// Has a panic of any thread told in log and record, and the process ended by it.
fn end_at_a_panic<J: Job>(folder: VmFolder) {
    let log = Log::open(&J::KIND, &folder, "worker");
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        let pid = std::process::id();
        let message = panic.to_string().replace('\n', " ");
        log.say(format_args!("{message}"));
        // Where it can't be written the log has it.
        let _ = Record::<J>::change(&folder, |found| {
            found.map(|found| Record { panic: Some(Panic { pid, message }), ..found })
        });
        // By SIGKILL: as nothing else it takes no other thread's help, and leaves no core with a guest's memory in it.
        let _ = kill_process(getpid(), Signal::KILL);
    }));
}
