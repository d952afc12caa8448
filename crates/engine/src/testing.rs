//! What unit tests give the engine in place of a process: a clock that stands, bytes that repeat, a helper that does nothing.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::context::{Cancel, Context, Event, Events, OperationId, Unheard};
use crate::host::{Clock, Helper, Host, Random};

/// The epoch, always; every random byte is 1.
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
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
        clock: Arc::new(Still),
        disk: Arc::new(vmrewind_files::RealDisk),
        random: Arc::new(Still),
        helper: Helper::open(Path::new("/bin/true")).unwrap(),
        steps: None,
    }
}

/// An operation's context on [`host`], whose events nobody hears.
pub(crate) fn context() -> Context {
    Context::new(&host(), Arc::new(Unheard), Cancel::default())
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
