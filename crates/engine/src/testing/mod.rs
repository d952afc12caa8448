//! What unit tests give the engine in place of a process: a clock that stands, bytes that repeat, a helper that does nothing.

mod bench;
mod helper;
pub(crate) mod images;
mod machines;
mod steps;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::context::{Caller, Cancel, Context, Event, Events, OperationId, Unheard};
use crate::host::{Clock, Helper, Host, Random};
use crate::patience::Patience;
use crate::root::VmFolder;
use crate::vm::local::LocalQemu;

pub(crate) use bench::{Bench, Reached, at_every_command, faults, little_patience, snapshot, vm};
pub(crate) use helper::{GuardPart, PagesPart, Parts};
pub(crate) use machines::{FakeMachines, FakeVm};
pub(crate) use steps::{died_at, until};

/// The epoch, always; time passes only where somebody sleeps. Every random byte is 1.
#[derive(Default)]
pub(crate) struct Still {
    slept_us: AtomicU64,
}

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.slept_us.load(Ordering::Relaxed))
    }

    fn sleep(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.slept_us.fetch_add(us, Ordering::Relaxed);
        // What is waited for is often another thread's, which needs a turn.
        std::thread::sleep(Duration::from_micros(100));
    }
}

impl Random for Still {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(1);
    }
}

/// A host whose helper is `/bin/true`: it ends at once and watches nothing.
pub(crate) fn host() -> Host {
    Host {
        clock: Arc::new(Still::default()),
        disk: Arc::new(vmrewind_files::RealDisk),
        random: Arc::new(Still::default()),
        helper: Helper::open(Path::new("/bin/true")).unwrap(),
        patience: Patience::default(),
        steps: None,
    }
}

/// Somebody who does `what`, hears nothing and waits for nobody.
pub(crate) fn caller(what: &str) -> Caller {
    Caller { what: what.into(), wait: Duration::ZERO, events: Arc::new(Unheard), cancel: Cancel::default() }
}

/// A VM's folder, empty, as long as the first lives.
pub(crate) fn folder() -> (tempfile::TempDir, VmFolder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = VmFolder::at(dir.path().to_owned());
    (dir, folder)
}

/// An operation's context on [`host`], whose events nobody hears.
pub(crate) fn context() -> Context {
    context_of(&host(), caller("test"))
}

/// The context of a caller's operation on a host, on QEMU processes.
pub(crate) fn context_of(host: &Host, caller: Caller) -> Context {
    let machines = Arc::new(LocalQemu { patience: host.patience });
    Context::new(host, machines, caller)
}

/// Keeps what operations tell.
#[derive(Default)]
pub(crate) struct Recorded(Mutex<Vec<(OperationId, Event)>>);

impl Recorded {
    /// What was told so far.
    pub(crate) fn events(&self) -> Vec<(OperationId, Event)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Events for Recorded {
    fn tell(&self, id: OperationId, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((id, event.clone()));
    }
}
