//! The guest agent's side of the protocol without I/O: QMP's framing, without greeting, events or ids.
//!
//! The agent is the guest's program behind a serial channel: what an earlier client left in the channel may still come,
//! and the guest may be anything. So nothing it says is trusted before a `guest-sync-delimited` with a number of our
//! own came back; then one request has one reply, in order. It serves `--quiesce` (freezing the guest's file systems
//! around a disk snapshot), setting the clock after a restore, and running a command in a clone.
//!
//! ```text
//!  Unsynced --sync(n): 0xff, request--> Syncing(n) --0xff, {"return": n}--> Idle <--request/reply--> Waiting
//!     ^                                    '--another n: stale, looked past             |
//!     '------------------------------ give_up (deadline) ------------------------------'
//! ```

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::commands::{Command, Nothing};
use super::error::SessionError;
use super::frame::LineBuffer;
use super::message::{CommandError, Message, decode, unexpected};
use super::session::encode_line;

/// The agent puts this byte before the reply to `guest-sync-delimited`, and starts over when it gets one.
const DELIMITER: u8 = 0xff;

/// The longest reply accepted: those used here are numbers and words, and a guest is not trusted.
const MAX_AGENT_LINE_BYTES: usize = 1 << 20;

/// A reply of the agent.
pub type AgentReply = Result<Value, CommandError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsynced,
    Syncing { number: u32, delimited: bool },
    Idle,
    Waiting,
}

/// The client's side of one agent channel.
#[derive(Debug)]
pub struct AgentSession {
    state: State,
    lines: LineBuffer,
}

impl Default for AgentSession {
    fn default() -> Self {
        Self { state: State::Unsynced, lines: LineBuffer::new(MAX_AGENT_LINE_BYTES) }
    }
}

impl AgentSession {
    /// Whether a request may be made; else a sync is needed first.
    pub fn is_synced(&self) -> bool {
        self.state == State::Idle
    }

    /// Starts over: gives the bytes that make the agent answer with `number`, which should be new each time.
    pub fn sync(&mut self, number: u32) -> Vec<u8> {
        self.state = State::Syncing { number, delimited: false };
        self.lines = LineBuffer::new(MAX_AGENT_LINE_BYTES);
        let mut bytes = vec![DELIMITER];
        bytes.extend(encode_line("execute", "guest-sync-delimited", &json!({ "id": number }), None));
        bytes
    }

    /// Makes a request and gives the line to send.
    ///
    /// # Errors
    /// [`SessionError::NotReady`] unless [`AgentSession::is_synced`].
    pub fn request(&mut self, command: &str, arguments: &Value) -> Result<Vec<u8>, SessionError> {
        if self.state != State::Idle {
            return Err(SessionError::NotReady);
        }
        self.state = State::Waiting;
        Ok(encode_line("execute", command, arguments, None))
    }

    /// Takes bytes from the agent, split in any way.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
    }

    /// Gives the reply to what is outstanding, the sync included, or None when more bytes are needed.
    ///
    /// # Errors
    /// A malformed or unasked message; a sync is needed after it.
    pub fn poll(&mut self) -> Result<Option<AgentReply>, SessionError> {
        self.poll_line().inspect_err(|_| self.state = State::Unsynced)
    }

    /// Stops waiting for a reply. It may still come, so a sync is needed.
    pub fn give_up(&mut self) {
        self.state = State::Unsynced;
    }

    /// Says how the input ended.
    pub fn end(&self) -> SessionError {
        self.lines.end()
    }

    fn poll_line(&mut self) -> Result<Option<AgentReply>, SessionError> {
        loop {
            if let State::Syncing { number, delimited: false } = self.state {
                if !self.lines.skip_past(DELIMITER) {
                    return Ok(None);
                }
                self.state = State::Syncing { number, delimited: true };
            }
            let Some(line) = self.lines.next_line()? else { return Ok(None) };
            if let Some(reply) = self.handle(&line)? {
                return Ok(Some(reply));
            }
        }
    }

    fn handle(&mut self, line: &[u8]) -> Result<Option<AgentReply>, SessionError> {
        let reply = decode(line);
        match self.state {
            State::Waiting => {
                let Message::Reply { result, .. } = reply? else {
                    return Err(unexpected("the guest agent sends only replies", line));
                };
                self.state = State::Idle;
                Ok(Some(result))
            }
            State::Syncing { number, .. } => {
                // Anything but our number is an earlier client's: look for the next delimiter.
                if let Ok(Message::Reply { result: Ok(value), .. }) = reply
                    && value == number
                {
                    self.state = State::Idle;
                    return Ok(Some(Ok(value)));
                }
                self.state = State::Syncing { number, delimited: false };
                Ok(None)
            }
            State::Unsynced | State::Idle => Err(unexpected("nothing was asked", line)),
        }
    }
}

/// `guest-ping`: whether the agent answers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GuestPing;

impl Command for GuestPing {
    const NAME: &'static str = "guest-ping";
    type Reply = Nothing;
}

/// `guest-fsfreeze-freeze`: syncs and freezes all file systems; the reply is how many.
///
/// While frozen the agent refuses most other commands.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GuestFsfreezeFreeze;

impl Command for GuestFsfreezeFreeze {
    const NAME: &'static str = "guest-fsfreeze-freeze";
    type Reply = i64;
}

/// `guest-fsfreeze-thaw`: thaws all; the reply is how many were frozen.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GuestFsfreezeThaw;

impl Command for GuestFsfreezeThaw {
    const NAME: &'static str = "guest-fsfreeze-thaw";
    type Reply = i64;
}

/// `guest-fsfreeze-status`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GuestFsfreezeStatus;

impl Command for GuestFsfreezeStatus {
    const NAME: &'static str = "guest-fsfreeze-status";
    type Reply = FsfreezeStatus;
}

super::commands::open_enum! {
    /// Whether the guest's file systems are frozen.
    FsfreezeStatus {
        /// All writable.
        Thawed = "thawed",
        /// At least one frozen by the agent.
        Frozen = "frozen",
    }
}

/// `guest-set-time`: sets the guest's clock; after a restore it shows the time of the capture.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct GuestSetTime {
    /// Nanoseconds since 1970, UTC.
    pub time: i64,
}

impl Command for GuestSetTime {
    const NAME: &'static str = "guest-set-time";
    type Reply = Nothing;
}

/// `guest-get-time`: the guest's clock, in nanoseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GuestGetTime;

impl Command for GuestGetTime {
    const NAME: &'static str = "guest-get-time";
    type Reply = i64;
}

/// `guest-exec`: starts a program in the guest; the reply is its process id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestExec {
    /// The program: a path, or a name that the guest looks up.
    pub path: String,
    /// Its arguments.
    pub arg: Vec<String>,
    /// Whether what it prints is to be kept for [`GuestExecStatus`].
    #[serde(rename = "capture-output")]
    pub capture_output: bool,
}

impl Command for GuestExec {
    const NAME: &'static str = "guest-exec";
    type Reply = GuestPid;
}

/// A process in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct GuestPid {
    /// Its id.
    pub pid: i64,
}

/// `guest-exec-status`: whether such a process has ended. Once it said so, the agent forgets the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GuestExecStatus {
    /// The process.
    pub pid: i64,
}

impl Command for GuestExecStatus {
    const NAME: &'static str = "guest-exec-status";
    type Reply = GuestProcess;
}

/// What became of a process; all but `exited` is there only once that is true.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GuestProcess {
    /// Whether it has ended.
    pub exited: bool,
    /// Its exit status.
    pub exitcode: Option<i64>,
    /// The signal that ended it.
    pub signal: Option<i64>,
    /// Its standard output, as far as the agent kept it.
    #[serde(rename = "out-data", default, deserialize_with = "from_base64")]
    pub stdout: Vec<u8>,
    /// Its standard error, as far as the agent kept it.
    #[serde(rename = "err-data", default, deserialize_with = "from_base64")]
    pub stderr: Vec<u8>,
    /// Whether standard output was longer.
    #[serde(rename = "out-truncated", default)]
    pub stdout_cut: bool,
    /// Whether standard error was longer.
    #[serde(rename = "err-truncated", default)]
    pub stderr_cut: bool,
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
}
