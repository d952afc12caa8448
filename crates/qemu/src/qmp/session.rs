//! One QMP connection as a state machine without I/O.
//!
//! ```text
//!  Greeting --{"QMP": ...}--> Negotiating --{"return": {}}--> Ready --any error, end of input--> Over
//!     |                           '--{"error": ...}--.
//!     '--malformed line, end of input----------------+--> Over
//! ```
//!
//! Bytes go in by [`Session::receive`], messages come out of [`Session::poll`], bytes to send out of
//! [`Session::take_outgoing`] and [`Session::request`]. Each request has an id of its own, which begins with the
//! connection's; a reply is taken only for an outstanding one. The first error is final: `poll` returns it again and again.
//!
//! QEMU can answer a client that has gone to the next one: what a command says that outlives its connection goes to
//! whoever is connected then. So a reply that belongs to no request of ours is passed over, and the ids of two connections
//! never meet.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::error::SessionError;
use super::frame::{LineBuffer, MAX_LINE_BYTES};
use super::message::{CommandError, Event, Message, QemuVersion, decode, unexpected};

/// What the ids of a connection's requests begin with: a random number, passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The id of its request of that number, on the wire.
    pub(super) fn request(self, number: u64) -> String {
        format!("{:016x}-{number}", self.0)
    }

    /// The number of its request of that id; nothing for an id that is another's.
    fn number(self, id: &Value) -> Option<u64> {
        let number = id.as_str()?.rsplit_once('-')?.1.parse().ok()?;
        (self.request(number) == id.as_str()?).then_some(number)
    }
}

/// The number of a request within its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u64);

/// What came from QEMU.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// QEMU's greeting; negotiation is under way.
    Greeted,
    /// Negotiation is over: commands may be sent.
    Ready(QemuVersion),
    /// The answer to a request that is outstanding no more.
    Reply {
        /// The request's id.
        id: RequestId,
        /// QEMU's answer.
        result: Result<Value, CommandError>,
    },
    /// The late answer to a request that was given up.
    Late(RequestId),
    /// A reply to nothing that was asked on this connection.
    Foreign,
    /// An event.
    Event(Event),
}

#[derive(Debug)]
enum State {
    Greeting,
    Negotiating { id: RequestId, version: QemuVersion },
    Ready,
    Over(SessionError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    Wanted,
    GivenUp,
}

/// The client's side of one QMP connection.
#[derive(Debug)]
pub struct Session {
    connection: ConnectionId,
    state: State,
    lines: LineBuffer,
    last_line: Vec<u8>,
    next_id: u64,
    outstanding: BTreeMap<RequestId, Interest>,
    outgoing: Vec<Vec<u8>>,
}

impl Session {
    /// Makes a session that waits for the greeting.
    pub fn new(connection: ConnectionId) -> Self {
        Self::with_limit(connection, MAX_LINE_BYTES)
    }

    /// Makes a session that refuses lines over `limit_bytes`.
    pub fn with_limit(connection: ConnectionId, limit_bytes: usize) -> Self {
        Self {
            connection,
            state: State::Greeting,
            lines: LineBuffer::new(limit_bytes),
            last_line: Vec::new(),
            next_id: 1,
            outstanding: BTreeMap::new(),
            outgoing: Vec::new(),
        }
    }

    /// Takes bytes from QEMU, split in any way.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Over(_)) {
            self.lines.push(bytes);
        }
    }

    /// Gives the next message, or None when more bytes are needed.
    ///
    /// # Errors
    /// The reason why the session is over; the same one from then on.
    pub fn poll(&mut self) -> Result<Option<Incoming>, SessionError> {
        if let State::Over(error) = &self.state {
            return Err(error.clone());
        }
        self.poll_line().inspect_err(|error| self.state = State::Over(error.clone()))
    }

    /// Takes the end of QEMU's bytes. To be called when all messages are polled; returns why the session is over.
    pub fn end(&mut self) -> SessionError {
        if let State::Over(error) = &self.state {
            return error.clone();
        }
        let error = self.lines.end();
        self.state = State::Over(error.clone());
        error
    }

    /// Makes a request and gives its id and the line to send. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`SessionError::NotReady`] before the end of negotiation; the reason when the session is over.
    pub fn request(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> Result<(RequestId, Vec<u8>), SessionError> {
        match &self.state {
            State::Ready => Ok(self.encode(command, arguments)),
            State::Over(error) => Err(error.clone()),
            State::Greeting | State::Negotiating { .. } => Err(SessionError::NotReady),
        }
    }

    /// Gives a request up: its reply may still come, and is then [`Incoming::Late`] rather than an error.
    pub fn give_up(&mut self, id: RequestId) {
        if let Some(interest) = self.outstanding.get_mut(&id) {
            *interest = Interest::GivenUp;
        }
    }

    /// Takes the lines that the session itself wants sent.
    pub fn take_outgoing(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outgoing)
    }

    /// The line that the last message or error came from, for transcripts; empty where there is none.
    pub fn last_line(&self) -> &[u8] {
        &self.last_line
    }

    fn poll_line(&mut self) -> Result<Option<Incoming>, SessionError> {
        self.last_line.clear();
        let Some(line) = self.lines.next_line()? else { return Ok(None) };
        self.last_line = line;
        self.handle(decode(&self.last_line)?).map(Some)
    }

    /// Moves the state machine by one message.
    fn handle(&mut self, message: Message) -> Result<Incoming, SessionError> {
        match message {
            Message::Event(event) => Ok(Incoming::Event(event)),
            Message::Greeting(version) => self.greeted(version),
            Message::Reply { id, result } => self.replied(id.as_ref(), result),
        }
    }

    fn greeted(&mut self, version: QemuVersion) -> Result<Incoming, SessionError> {
        if !matches!(self.state, State::Greeting) {
            return Err(unexpected("a second greeting", &self.last_line));
        }
        let (id, line) = self.encode("qmp_capabilities", &Value::Null);
        self.outgoing.push(line);
        self.state = State::Negotiating { id, version };
        Ok(Incoming::Greeted)
    }

    fn replied(
        &mut self,
        id: Option<&Value>,
        result: Result<Value, CommandError>,
    ) -> Result<Incoming, SessionError> {
        let ours = id.and_then(|id| self.connection.number(id)).map(RequestId);
        let interest = ours.and_then(|id| self.outstanding.remove(&id));
        let (Some(id), Some(interest)) = (ours, interest) else {
            return Ok(Incoming::Foreign);
        };
        if let State::Negotiating { id: negotiation, version } = &self.state
            && *negotiation == id
        {
            let version = version.clone();
            result.map_err(|source| SessionError::NegotiationRefused { source })?;
            self.state = State::Ready;
            return Ok(Incoming::Ready(version));
        }
        Ok(match interest {
            Interest::Wanted => Incoming::Reply { id, result },
            Interest::GivenUp => Incoming::Late(id),
        })
    }

    fn encode(&mut self, command: &str, arguments: &Value) -> (RequestId, Vec<u8>) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.outstanding.insert(id, Interest::Wanted);
        let on_wire = Value::from(self.connection.request(id.0));
        (id, encode_line("execute", command, arguments, Some(on_wire)))
    }
}

/// Writes one request as a line; `verb` is `execute`, or `exec-oob` where the command is to overtake others. Null arguments
/// are left out: QEMU takes an object or nothing.
pub(super) fn encode_line(verb: &str, command: &str, arguments: &Value, id: Option<Value>) -> Vec<u8> {
    let mut request = json!({ verb: command });
    if !arguments.is_null() {
        request["arguments"] = arguments.clone();
    }
    if let Some(id) = id {
        request["id"] = id;
    }
    let mut line = request.to_string().into_bytes();
    line.push(b'\n');
    line
}
