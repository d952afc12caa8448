//! One operation's context: who it is, what it tells, whether it should stop, and when each of its steps was done.
//!
//! The process's side (clock, randomness, the helper program) is [`Host`]; it is shared by all operations. What belongs to one
//! operation is here, so that two in one process have their own progress and their own cancellation.
//!
//! Events are data: which work, which note. Their words are the caller's ([`Work::key`] is for programs).

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::cancel::Cancel;
use crate::host::{Clock, Host};
use crate::vm::machine::Machines;

/// Tells the operations of one process apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct OperationId(u64);

impl OperationId {
    /// The next one of this process.
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Long work whose progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A guest's memory goes into the store.
    CapturingMemory,
    /// Memory goes from the store into a guest.
    RestoringMemory,
    /// Every byte of a memory image is read.
    VerifyingMemory,
    /// The memory file that clones share is made.
    WritingMemoryFile,
    /// The store does this; its own word.
    Store(&'static str),
}

/// How far a long piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// What is being done.
    pub work: Work,
    /// Bytes done (of the store's own work: whatever it counts).
    pub done_bytes: u64,
    /// Bytes expected in all; work that sends pages again can pass it.
    pub total_bytes: u64,
}

/// Something the user should know that is neither result nor error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// A dead command had begun this; it is taken back.
    Undoing {
        /// The journal's name of the operation.
        operation: String,
    },
    /// A dead command had decided this; it is completed.
    Finishing {
        /// The journal's name of the operation.
        operation: String,
    },
    /// A guest waited for a page server that had been killed.
    PageServerRevived,
    /// An operation that needs all of the memory waits for the rest.
    WaitingForMemory,
    /// Another operation holds the VM; this one waits until it has ended.
    WaitingForVm {
        /// The VM.
        vm: String,
        /// Who holds it, if that is known.
        holder: Option<Holder>,
    },
    /// Leaked clusters of a disk's layer were not freed; nothing but space is lost.
    NotTidied {
        /// The disk.
        disk: String,
        /// Why.
        error: String,
    },
    /// The links of a clone's network devices are unplugged, until the user plugs them.
    LinksUnplugged {
        /// The VM.
        vm: String,
        /// The devices.
        devices: Vec<String>,
    },
    /// A QEMU did not get what the one before it had.
    NotHandedOver {
        /// What: a port, a file.
        what: String,
        /// Why.
        error: String,
    },
    /// The running QEMU is ended before it is known whether the next one starts.
    EndedFirst {
        /// Why two can't be there at once.
        why: String,
    },
    /// The operation was done, and the VM can't be shown.
    NotShown {
        /// The VM.
        vm: String,
        /// Why.
        error: String,
    },
    /// A VM is left out of a result, since it can't be read.
    LeftOut {
        /// The VM.
        vm: String,
        /// Why.
        error: String,
    },
    /// Something about the guest that was started.
    OfGuest {
        /// What.
        text: String,
    },
}

/// Who holds a VM, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it does: `snapshot create`.
    pub operation: String,
    /// Its process.
    pub pid: u32,
    /// Since when it has held the VM.
    pub since: Timestamp,
}

/// A step of an operation that was done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepTime {
    /// Which: `guest-stopped`.
    pub name: &'static str,
    /// Milliseconds since the step before, or since the operation's beginning.
    pub ms: f64,
}

/// What an operation tells while it works.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Long work has come this far. Told some ten times a second at most, by the thread that does the work.
    Progress(Progress),
    /// Something to know.
    Note(Note),
    /// A step was done.
    Step(StepTime),
    /// The long work is over, successfully or not: a progress bar can go.
    WorkEnded,
}

/// Hears what an operation tells.
pub trait Events: Send + Sync {
    /// The operation `id` tells `event`.
    fn tell(&self, id: OperationId, event: &Event);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unheard;

impl Events for Unheard {
    fn tell(&self, _: OperationId, _: &Event) {}
}

/// When the steps of an operation were done; clones share one list.
#[derive(Clone)]
pub struct TimeLine {
    clock: Arc<dyn Clock>,
    marks: Arc<Mutex<Marks>>,
}

struct Marks {
    /// Of the last step, by the monotonic clock.
    last: Duration,
    steps: Vec<StepTime>,
}

impl TimeLine {
    /// A time line that begins now.
    fn new(clock: Arc<dyn Clock>) -> Self {
        let marks = Marks { last: clock.monotonic(), steps: Vec::new() };
        Self { clock, marks: Arc::new(Mutex::new(marks)) }
    }

    /// The steps so far, in order.
    pub fn steps(&self) -> Vec<StepTime> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).steps.clone()
    }

    /// The milliseconds from the begin to a step, the last of that name. `None` where it was not reached.
    pub fn until(&self, name: &str) -> Option<f64> {
        let steps = self.steps();
        let at = steps.iter().rposition(|step| step.name == name)?;
        Some(steps[..=at].iter().map(|step| step.ms).sum())
    }

    fn mark(&self, name: &'static str) -> StepTime {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let step = StepTime { name, ms: in_ms(now.saturating_sub(marks.last)) };
        marks.last = now;
        marks.steps.push(step);
        step
    }
}

impl fmt::Debug for TimeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps()).finish()
    }
}

/// Milliseconds, to a microsecond.
fn in_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Who begins an operation, and what it wants to hear.
#[derive(Clone)]
pub struct Caller {
    /// What it does, as others are told who wait for it: `snapshot create`.
    pub what: String,
    /// How long it waits for a VM that another operation holds.
    pub wait: Duration,
    /// Hears what the operation tells.
    pub events: Arc<dyn Events>,
    /// Ends the operation.
    pub cancel: Cancel,
}

/// The context of one operation.
#[derive(Clone)]
pub struct Context {
    /// Which operation, of this process's.
    pub id: OperationId,
    /// Set when this operation is to stop.
    pub cancel: Cancel,
    /// When its steps were done.
    pub time_line: TimeLine,
    /// As [`Caller::what`].
    pub(crate) what: String,
    /// As [`Caller::wait`].
    pub(crate) wait: Duration,
    pub(crate) host: Host,
    machines: Arc<dyn Machines>,
    events: Arc<dyn Events>,
}

impl Context {
    /// A context for an operation that begins now.
    pub(crate) fn new(host: &Host, machines: Arc<dyn Machines>, caller: Caller) -> Self {
        let Caller { what, wait, events, cancel } = caller;
        let time_line = TimeLine::new(Arc::clone(&host.clock));
        Self { id: OperationId::next(), cancel, time_line, what, wait, host: host.clone(), machines, events }
    }

    /// Finds and starts VMs.
    pub(crate) fn machines(&self) -> &dyn Machines {
        &*self.machines
    }

    /// The time of day.
    pub(crate) fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    /// Tells that a step is done.
    pub(crate) fn reached(&self, step: &'static str) {
        let step = self.time_line.mark(step);
        self.events.tell(self.id, &Event::Step(step));
        if let Some(steps) = &self.host.steps {
            steps.reached(step.name);
        }
    }

    /// Tells how far work is, and says whether to go on.
    pub(crate) fn progress(&self, work: Work, done_bytes: u64, total_bytes: u64) -> ControlFlow<()> {
        self.events.tell(self.id, &Event::Progress(Progress { work, done_bytes, total_bytes }));
        self.go_on()
    }

    /// Tells something to know.
    pub(crate) fn note(&self, note: Note) {
        self.events.tell(self.id, &Event::Note(note));
    }

    /// Tells that the long work is over.
    pub(crate) fn work_ended(&self) {
        self.events.tell(self.id, &Event::WorkEnded);
    }

    /// Breaks off where the operation is to stop.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Recorded, Still, caller};

    /// One user's Ctrl-C must not end another's operation, nor its bar move for it.
    #[test]
    fn two_operations_have_their_own_progress_and_cancellation() {
        let (host, heard) = (crate::testing::host(), [Arc::new(Recorded::default()), Arc::default()]);
        let [one, other] = heard.each_ref().map(|heard| {
            crate::testing::context_of(&host, Caller { events: heard.clone(), ..caller("test") })
        });
        one.cancel.cancel();
        assert_eq!(one.progress(Work::CapturingMemory, 1, 2), ControlFlow::Break(()));
        assert_eq!(other.progress(Work::RestoringMemory, 1, 2), ControlFlow::Continue(()));
        other.reached("layers-made");
        assert_ne!(one.id, other.id);
        let told = heard.map(|heard| heard.events());
        assert_eq!(told.each_ref().map(Vec::len), [1, 2]);
        assert!(told[0].iter().all(|(id, _)| *id == one.id) && told[1].iter().all(|(id, _)| *id == other.id));
        assert!(one.time_line.steps().is_empty() && other.time_line.steps().len() == 1);
    }

    /// A time line that skips or swaps steps would blame the wrong one.
    #[test]
    fn steps_are_in_order_and_clones_share_them() {
        let clock = Arc::new(Still::default());
        let line = TimeLine::new(clock.clone());
        line.clone().mark("first");
        clock.sleep(Duration::from_millis(2));
        line.mark("second");
        let steps = line.steps();
        assert_eq!(steps.iter().map(|step| step.name).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(steps.iter().map(|step| step.ms).collect::<Vec<_>>(), [0.0, 2.0]);
    }
}
