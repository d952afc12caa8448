//! What the reader thread and the callers of one client share, behind one lock and one condition variable.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::connection::Deadline;
use super::events::EventLog;
use super::transcript::Transcript;
use crate::qmp::error::{QmpError, SessionError};
use crate::qmp::message::{CommandError, QemuVersion};
use crate::qmp::session::{ConnectionId, Incoming, RequestId, Session};

#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct Inner {
    session: Session,
    /// Set when negotiation is over.
    pub(super) version: Option<QemuVersion>,
    /// Answers that their callers have not fetched yet.
    pub(super) replies: BTreeMap<RequestId, Result<Value, CommandError>>,
    pub(super) events: EventLog,
    pub(super) transcript: Transcript,
    /// Why the connection is over; set once.
    over: Option<SessionError>,
}

impl Shared {
    pub(super) fn new(connection: ConnectionId) -> Self {
        let inner = Inner {
            session: Session::new(connection),
            version: None,
            replies: BTreeMap::new(),
            events: EventLog::default(),
            transcript: Transcript::default(),
            over: None,
        };
        Self { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes from QEMU and wakes all waiters; gives the lines that the session wants sent.
    pub(super) fn receive(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, SessionError> {
        let mut inner = self.lock();
        inner.session.receive(bytes);
        let result = inner.absorb();
        // Woken in case of an error too: what came before it is there for its waiters.
        let outgoing = inner.session.take_outgoing();
        for line in &outgoing {
            inner.transcript.sent(line);
        }
        self.changed.notify_all();
        result.map(|()| outgoing)
    }

    /// Takes the end of QEMU's bytes; says why the session is over.
    pub(super) fn end(&self) -> SessionError {
        self.lock().session.end()
    }

    /// Makes the connection over for all waiters; gives the first reason, which stays.
    pub(super) fn fail(&self, error: SessionError) -> SessionError {
        let first = self.lock().over.get_or_insert(error).clone();
        self.changed.notify_all();
        first
    }

    /// Makes a request and records it; the line is to be sent by the caller.
    pub(super) fn request(&self, name: &str, arguments: &Value) -> Result<(RequestId, Vec<u8>), QmpError> {
        let mut inner = self.lock();
        let lost = |source| QmpError::Lost { doing: name.to_owned(), source };
        if let Some(error) = &inner.over {
            return Err(lost(error.clone()));
        }
        let (id, line) = inner.session.request(name, arguments).map_err(lost)?;
        inner.transcript.sent(&line);
        Ok((id, line))
    }

    /// Forgets a request whose caller has stopped waiting; its late reply is dropped.
    pub(super) fn give_up(&self, id: RequestId) {
        let mut inner = self.lock();
        // The reply can have come since the time was up. Left there it would be kept for as long as the connection lasts.
        if inner.replies.remove(&id).is_none() {
            inner.session.give_up(id);
        }
    }

    /// Waits until `ready` gives something. What is there already wins over the end of the connection, and that
    /// over the deadline.
    pub(super) fn wait<T>(
        &self,
        doing: &str,
        deadline: Deadline,
        mut ready: impl FnMut(&mut Inner) -> Option<T>,
    ) -> Result<T, QmpError> {
        let mut inner = self.lock();
        loop {
            if let Some(value) = ready(&mut inner) {
                return Ok(value);
            }
            inner.check_open(doing)?;
            inner = match deadline.left() {
                None => {
                    return Err(QmpError::Deadline { doing: doing.to_owned(), timeout: deadline.timeout() });
                }
                Some(None) => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(Some(left)) => {
                    self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Inner {
    /// Fails when the connection is over.
    pub(super) fn check_open(&self, doing: &str) -> Result<(), QmpError> {
        match &self.over {
            None => Ok(()),
            Some(source) => Err(QmpError::Lost { doing: doing.to_owned(), source: source.clone() }),
        }
    }

    /// Moves every message that is complete to where its waiter looks.
    fn absorb(&mut self) -> Result<(), SessionError> {
        loop {
            let polled = self.session.poll();
            let line = self.session.last_line();
            if !line.is_empty() {
                self.transcript.received(line);
            }
            match polled? {
                None => return Ok(()),
                Some(Incoming::Ready(version)) => self.version = Some(version),
                Some(Incoming::Event(event)) => self.events.push(event),
                Some(Incoming::Greeted | Incoming::Late(_) | Incoming::Foreign) => {}
                Some(Incoming::Reply { id, result }) => {
                    self.replies.insert(id, result);
                }
            }
        }
    }
}
