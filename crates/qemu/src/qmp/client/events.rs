//! Events kept for whoever wants them: a bounded log with numbered entries, and cursors into it.
//!
//! A cursor sees every event from the moment it was made, in order, however late it looks. The log keeps the last
//! [`KEPT_EVENTS`]; a cursor that falls further behind gets [`QmpError::EventsLost`], never a silent gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Deadline;
use super::shared::{Inner, Shared};
use crate::qmp::error::QmpError;
use crate::qmp::message::Event;

/// How many events a cursor may be behind.
pub(super) const KEPT_EVENTS: usize = 4096;

/// The last events of a connection.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    events: VecDeque<Arc<Event>>,
    /// The number of the first event kept.
    first: u64,
}

impl EventLog {
    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() == KEPT_EVENTS {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(Arc::new(event));
    }

    /// The number that the next event will have.
    fn end(&self) -> u64 {
        self.first + u64::try_from(self.events.len()).unwrap_or(u64::MAX)
    }

    fn get(&self, number: u64) -> Option<&Arc<Event>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.events.get(index)
    }
}

/// A reader's place among a client's events. A clone reads on from the same place.
#[derive(Debug, Clone)]
pub struct EventCursor {
    shared: Arc<Shared>,
    next: u64,
}

impl EventCursor {
    pub(super) fn from_now(shared: Arc<Shared>) -> Self {
        let next = shared.lock().events.end();
        Self { shared, next }
    }

    /// Waits for the first event that `wanted` says yes to. The events before it are passed over: `wanted` sees each.
    ///
    /// # Errors
    /// [`QmpError::Lost`] when the connection is over and all its events are seen, [`QmpError::Deadline`],
    /// [`QmpError::EventsLost`].
    pub fn wait(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Event, QmpError> {
        let deadline = Deadline::after(timeout);
        loop {
            // `wanted` is the caller's code and runs without our lock.
            let event = self.next_until(deadline)?;
            if wanted(&event) {
                return Ok(Arc::unwrap_or_clone(event));
            }
        }
    }

    /// Waits for the next event, whatever it is.
    ///
    /// # Errors
    /// As for [`EventCursor::wait`].
    pub fn wait_next(&mut self, timeout: Duration) -> Result<Event, QmpError> {
        self.next_until(Deadline::after(timeout)).map(Arc::unwrap_or_clone)
    }

    /// Takes the next event if it is there already.
    ///
    /// # Errors
    /// [`QmpError::Lost`] when the connection is over and all its events are seen, [`QmpError::EventsLost`].
    pub fn try_next(&mut self) -> Result<Option<Event>, QmpError> {
        let shared = Arc::clone(&self.shared);
        let inner = shared.lock();
        match self.take(&inner) {
            Some(event) => event.map(Arc::unwrap_or_clone).map(Some),
            None => inner.check_open("an event").map(|()| None),
        }
    }

    fn next_until(&mut self, deadline: Deadline) -> Result<Arc<Event>, QmpError> {
        let shared = Arc::clone(&self.shared);
        shared.wait("an event", deadline, |inner| self.take(inner))?
    }

    /// Takes the next event, or the news that it is gone; then goes on with the oldest one kept.
    fn take(&mut self, inner: &Inner) -> Option<Result<Arc<Event>, QmpError>> {
        let log = &inner.events;
        if self.next < log.first {
            let count = log.first - self.next;
            self.next = log.first;
            return Some(Err(QmpError::EventsLost { count }));
        }
        let event = log.get(self.next)?;
        self.next += 1;
        Some(Ok(Arc::clone(event)))
    }
}
