//! What the reader thread and the callers of one client share, behind one lock and one condition variable.

use std::collections::BTreeMap;

use serde_json::Value;

use super::connection::Deadline;
use super::events::EventLog;
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::super::sync::{explore, thread};
    use super::*;

    const ID: ConnectionId = ConnectionId(7);

    /// What a connection shares once it is negotiated.
    fn ready() -> Arc<Shared> {
        let shared = Arc::new(Shared::new(ID));
        let greeting = json!({ "QMP": { "version": { "qemu": { "micro": 2, "minor": 0, "major": 10 }, "package": "" } } });
        let negotiated = json!({ "return": {}, "id": ID.request(1) });
        let outgoing =
            shared.receive(format!("{greeting}\n{negotiated}\n").as_bytes()).expect("it is a greeting");
        assert_eq!(outgoing.len(), 1);
        shared
    }

    fn reply(number: u64) -> Vec<u8> {
        format!("{}\n", json!({ "return": number, "id": ID.request(number) })).into_bytes()
    }

    fn wait(shared: &Shared, id: RequestId) -> Result<Value, QmpError> {
        let reply = shared.wait("it", Deadline::never(), |inner| inner.replies.remove(&id))?;
        Ok(reply.expect("the reply is no error"))
    }

    /// Guards callers from waiting for ever, and from each other: all have their own reply, whoever comes first and whatever
    /// comes with it, and where the connection ends all that are left are told.
    #[test]
    fn every_caller_has_its_reply_or_the_end() {
        explore(|| {
            let shared = ready();
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        let (id, line) = shared.request("stop", &Value::Null).ok()?;
                        let asked: Value = serde_json::from_slice(&line).expect("it is JSON");
                        Some((asked["id"].clone(), wait(&shared, id).ok()))
                    })
                })
                .collect();
            // Those of nobody are passed over, and those that are asked for later are never answered.
            let reader = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let replies = [reply(3), reply(2)].concat();
                    shared.receive(&replies).expect("replies are no error");
                    shared.fail(SessionError::Closed);
                }
            });
            reader.join().expect("no panic");
            for caller in callers {
                if let Some((id, Some(found))) = caller.join().expect("no panic") {
                    let number = found.as_u64().expect("a number");
                    assert_eq!(id, json!(ID.request(number)), "another one's reply");
                }
            }
        });
    }

    /// Guards the callers of a connection that lives on: what comes at once for two of them wakes both.
    #[test]
    fn replies_that_come_together_wake_all_their_callers() {
        explore(|| {
            let shared = ready();
            let ids = [0, 1].map(|_| shared.request("stop", &Value::Null).expect("it is negotiated").0);
            let callers = ids.map(|id| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || wait(&shared, id).expect("it is answered"))
            });
            shared.receive(&[reply(3), reply(2)].concat()).expect("replies are no error");
            let found = callers.map(|caller| caller.join().expect("no panic"));
            assert_eq!(found, [json!(2), json!(3)]);
        });
    }

    /// Guards a connection from filling up: a reply that comes while its caller gives up is kept for nobody.
    #[test]
    fn what_is_given_up_leaves_nothing() {
        explore(|| {
            let shared = ready();
            let (id, _) = shared.request("stop", &Value::Null).expect("it is negotiated");
            let reader = thread::spawn({
                let shared = Arc::clone(&shared);
                move || shared.receive(&reply(2)).map(drop).expect("a late reply is no error")
            });
            let over = Deadline::after(Duration::ZERO);
            if shared.wait("it", over, |inner| inner.replies.remove(&id)).is_err() {
                shared.give_up(id);
            }
            reader.join().expect("no panic");
            assert!(shared.lock().replies.is_empty());
            let (next, _) = shared.request("cont", &Value::Null).expect("it goes on");
            shared.receive(&reply(3)).expect("so do replies");
            assert_eq!(wait(&shared, next).expect("it came"), 3);
        });
    }
}
