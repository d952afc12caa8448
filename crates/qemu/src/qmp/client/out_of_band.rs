//! The out-of-band monitor: a QMP connection without anybody at its other end, on a pair of named pipes.
//!
//! QEMU answers `exec-oob` commands from a thread of its own, while its main loop waits: for a page of a guest whose page
//! server died, say. But a new client of a socket gets nowhere then, since negotiation needs the main loop. A character
//! device on pipes has no clients that come and go: QEMU holds both pipes open for writing as well as reading
//! (`chardev/char-pipe.c`), so it never sees an end. Negotiated once, it takes commands from whoever opens the pipes next.
//!
//! ```text
//!  PATH.in   --commands--> QEMU     one write of at most PIPE_BUF bytes each: whole or not at all
//!  PATH.out  <--answers--- QEMU     with events, and with what was left unread for others: looked past
//! ```
//! One client at a time has the pipes, or it would read another's answer: it holds a lock on the first, which goes with it. An
//! answer to a client that gave up stays in the pipe. The next one looks past it, since no two requests of any clients have the same id.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::connection::{self, Deadline};
use crate::qmp::commands::{OutOfBand, from_reply, to_arguments};
use crate::qmp::error::{QmpError, SessionError};
use crate::qmp::frame::{LineBuffer, MAX_LINE_BYTES};
use crate::qmp::message::{Message, decode};
use crate::qmp::session::{ConnectionId, encode_line};

/// What one write to a pipe may have so that it is not split (`pipe(7)`).
const PIPE_BUF: usize = 4096;

/// The pauses between two looks whether the client before has gone.
const TURN_PAUSE: Duration = Duration::from_millis(1);

/// Makes the pipes of a monitor at `path`, for a QEMU that is to be started. Those of an earlier one are replaced.
///
/// # Errors
/// The operating system's.
pub fn make_pipes(path: &Path) -> io::Result<()> {
    for pipe in [commands_of(path), answers_of(path)] {
        match std::fs::remove_file(&pipe) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    }
    Ok(())
}

/// A client of the monitor at a pair of pipes.
#[derive(Debug)]
pub struct OutOfBandClient {
    commands: File,
    answers: File,
    lines: LineBuffer,
    id: ConnectionId,
    requests: u64,
}

impl OutOfBandClient {
    /// Opens the pipes, and waits for at most `timeout` until no other client, of this process or another, has them. `id`
    /// tells this client from all others: a random number.
    ///
    /// # Errors
    /// [`QmpError::Connect`] where there are none, or no QEMU has them open; [`QmpError::Deadline`].
    pub fn open(path: &Path, id: ConnectionId, timeout: Duration) -> Result<Self, QmpError> {
        let deadline = Deadline::after(timeout);
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let open = |options: &mut OpenOptions, pipe: &Path| options.custom_flags(flags).open(pipe);
        let cannot = |source| QmpError::Connect { socket: path.to_owned(), source: Arc::new(source) };
        // Fails where nobody has it open for reading: a QEMU that is gone is told at once.
        let commands = open(OpenOptions::new().write(true), &commands_of(path)).map_err(cannot)?;
        loop {
            match flock(&commands, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if deadline.left().is_some() => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(QmpError::Deadline { doing: "the client before".to_owned(), timeout });
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(cannot(error.into())),
            }
            std::thread::sleep(TURN_PAUSE);
        }
        // Not before the lock is held: whoever has it open takes answers out of it.
        let answers = open(OpenOptions::new().read(true), &answers_of(path)).map_err(cannot)?;
        let lines = LineBuffer::new(MAX_LINE_BYTES);
        Ok(Self { commands, answers, lines, id, requests: 0 })
    }

    /// Has QEMU take commands, out-of-band ones too. Once in the life of a QEMU, while its main loop answers.
    ///
    /// # Errors
    /// As for [`OutOfBandClient::execute`].
    pub fn negotiate(&mut self, timeout: Duration) -> Result<(), QmpError> {
        let arguments = json!({ "enable": ["oob"] });
        self.request("execute", "qmp_capabilities", &arguments, Deadline::after(timeout)).map(drop)
    }

    /// Runs a command, whatever QEMU's main loop does.
    ///
    /// # Errors
    /// [`QmpError::Refused`], [`QmpError::Lost`] where QEMU is gone, [`QmpError::Deadline`].
    pub fn execute<C: OutOfBand>(&mut self, command: &C, timeout: Duration) -> Result<C::Reply, QmpError> {
        let arguments = to_arguments(command)?;
        let reply = self.request("exec-oob", C::NAME, &arguments, Deadline::after(timeout))?;
        from_reply::<C>(reply)
    }

    /// Forgets what nobody has read, so that it does not pile up in QEMU. Events come on this monitor too.
    ///
    /// # Errors
    /// The operating system's.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; PIPE_BUF];
        loop {
            match self.answers.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn request(
        &mut self,
        verb: &str,
        name: &str,
        arguments: &Value,
        deadline: Deadline,
    ) -> Result<Value, QmpError> {
        self.requests += 1;
        let id = Value::from(self.id.request(self.requests));
        let line = encode_line(verb, name, arguments, Some(id.clone()));
        let exchange = Exchange { doing: name, deadline };
        self.send(&line, &exchange)?;
        self.answer(&id, &exchange)
    }

    fn send(&mut self, line: &[u8], exchange: &Exchange<'_>) -> Result<(), QmpError> {
        if line.len() > PIPE_BUF {
            let error =
                io::Error::new(ErrorKind::InvalidInput, "a command is longer than a pipe takes at once");
            return Err(exchange.failed("write", error));
        }
        loop {
            match self.commands.write(line) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    exchange.wait(&self.commands, PollFlags::OUT)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(exchange.failed("write", error)),
            }
        }
    }

    fn answer(&mut self, id: &Value, exchange: &Exchange<'_>) -> Result<Value, QmpError> {
        let mut buffer = [0; PIPE_BUF];
        loop {
            while let Some(line) = self.lines.next_line().map_err(|source| exchange.lost(source))? {
                // Everything else is for others, or the rest of a line of which one who died has read the start.
                if let Ok(Message::Reply { id: Some(of), result }) = decode(&line)
                    && of == *id
                {
                    return result
                        .map_err(|source| QmpError::Refused { command: exchange.doing.to_owned(), source });
                }
            }
            match self.answers.read(&mut buffer) {
                Ok(0) => return Err(exchange.lost(self.lines.end())),
                Ok(count) => self.lines.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    exchange.wait(&self.answers, PollFlags::IN)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(exchange.failed("read", error)),
            }
        }
    }
}

/// A command under way, for its errors.
struct Exchange<'a> {
    doing: &'a str,
    deadline: Deadline,
}

impl Exchange<'_> {
    /// Waits until something can be read or written.
    fn wait(&self, pipe: &File, events: PollFlags) -> Result<(), QmpError> {
        let late = || QmpError::Deadline { doing: self.doing.to_owned(), timeout: self.deadline.timeout() };
        let left = self.deadline.left().ok_or_else(late)?;
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(pipe, events)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(self.failed("wait for", error.into())),
        }
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> QmpError {
        self.lost(if connection::means_closed(&error) {
            SessionError::Closed
        } else {
            SessionError::Io { operation, source: Arc::new(error) }
        })
    }

    fn lost(&self, source: SessionError) -> QmpError {
        QmpError::Lost { doing: self.doing.to_owned(), source }
    }
}

fn commands_of(path: &Path) -> PathBuf {
    with_end(path, ".in")
}

fn answers_of(path: &Path) -> PathBuf {
    with_end(path, ".out")
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// Guards a command against a page server that asks at the same moment, and would read its answer.
    #[test]
    fn a_client_waits_for_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oob");
        make_pipes(&path).unwrap();
        let _qemu = OpenOptions::new().read(true).write(true).open(commands_of(&path)).unwrap();
        let first = OutOfBandClient::open(&path, ConnectionId(1), SOON).unwrap();
        let error = OutOfBandClient::open(&path, ConnectionId(2), Duration::ZERO).unwrap_err();
        assert!(matches!(error, QmpError::Deadline { .. }), "{error:?}");
        thread::scope(|scope| {
            let second = scope.spawn(|| OutOfBandClient::open(&path, ConnectionId(2), SOON).map(drop));
            thread::sleep(Duration::from_millis(20));
            assert!(!second.is_finished(), "it did not wait");
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    /// Guards a call from the answer to one that gave up before, on another client of the same process.
    #[test]
    fn a_late_answer_is_not_taken_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oob");
        make_pipes(&path).unwrap();
        // As QEMU holds them.
        let hold = |pipe: &Path| OpenOptions::new().read(true).write(true).open(pipe).unwrap();
        let mut commands = BufReader::new(hold(&commands_of(&path)));
        let mut answers = hold(&answers_of(&path));
        let mut answer = |text: &str| {
            let mut line = String::new();
            commands.read_line(&mut line).unwrap();
            let request: Value = serde_json::from_str(&line).unwrap();
            writeln!(answers, "{}", json!({ "return": text, "id": request["id"] })).unwrap();
        };
        let ask = |id, timeout_ms| {
            let mut client = OutOfBandClient::open(&path, ConnectionId(id), SOON).unwrap();
            client.request("exec-oob", "test", &json!({}), Deadline::after(Duration::from_millis(timeout_ms)))
        };

        assert!(matches!(ask(1, 1), Err(QmpError::Deadline { .. })));
        answer("late");
        thread::scope(|scope| {
            let asked = scope.spawn(|| ask(2, 30_000));
            answer("in time");
            assert_eq!(asked.join().unwrap().unwrap(), "in time");
        });
    }
}
