//! The socket client: the one module of this crate with sockets, threads and a clock.
//!
//! ```text
//!  execute --request--> [session | replies | event log | transcript | over?]  <--receive-- reader thread <-- socket
//!     '------------ waits on one condition variable -------------'
//! ```
//!
//! One reader thread per client feeds the session; callers wait for their reply or event on a condition
//! variable, any number at once. When the connection ends every waiter first gets what came before, then the same
//! typed error. Dropping the client closes the connection and joins the thread.
//!
//! QEMU serves one client per QMP socket: a second one connects, but gets no greeting until the first is gone. That
//! shows as [`QmpError::Deadline`] for `the greeting`.

mod agent;
mod connection;
mod events;
mod out_of_band;
#[cfg(test)]
mod schedules;
mod shared;
mod sync;
mod transcript;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

pub use agent::AgentClient;
pub use events::EventCursor;
pub use out_of_band::{OutOfBandClient, make_pipes};

use super::commands::{Command, from_reply, to_arguments};
use super::error::{QmpError, SessionError};
use super::message::QemuVersion;
use super::session::ConnectionId;
use connection::{Deadline, Patience};
use shared::Shared;

const READ_BYTES: usize = 64 << 10;

/// A connection to QEMU's monitor, usable from several threads at once.
#[derive(Debug)]
pub struct Client {
    link: Link,
    version: QemuVersion,
}

impl Client {
    /// Connects to a QMP socket and negotiates, all within `timeout`. `id` tells this connection from all others: a random
    /// number.
    ///
    /// # Errors
    /// [`QmpError::Connect`] when nobody listens; [`QmpError::Lost`] and [`QmpError::Deadline`] during negotiation.
    pub fn connect(socket: &Path, id: ConnectionId, timeout: Duration) -> Result<Self, QmpError> {
        let deadline = Deadline::after(timeout);
        Self::negotiate(connection::connect(socket, deadline)?, socket, id, deadline)
    }

    /// Like [`Client::connect`], for a QEMU that is starting: waits while the socket does not exist or nobody
    /// listens on it yet, for as long as `still_alive` says that QEMU runs.
    ///
    /// # Errors
    /// As for `connect`, and [`QmpError::Ended`] when `still_alive` said no.
    pub fn connect_waiting(
        socket: &Path,
        id: ConnectionId,
        timeout: Duration,
        still_alive: impl FnMut() -> bool,
    ) -> Result<Self, QmpError> {
        let deadline = Deadline::after(timeout);
        let stream = connection::connect_waiting(socket, deadline, Patience::default(), still_alive)?;
        Self::negotiate(stream, socket, id, deadline)
    }

    /// The version from QEMU's greeting.
    pub fn version(&self) -> &QemuVersion {
        &self.version
    }

    /// Runs a command and waits for its reply. Commands of several threads are answered in the order sent.
    ///
    /// # Errors
    /// [`QmpError::Refused`], [`QmpError::Lost`], [`QmpError::Deadline`] (the command may still take effect),
    /// [`QmpError::Reply`] when the answer lacks a needed field.
    pub fn execute<C: Command>(&self, command: &C, timeout: Duration) -> Result<C::Reply, QmpError> {
        let reply = self.run(C::NAME, &to_arguments(command)?, timeout)?;
        from_reply::<C>(reply)
    }

    /// Runs a command that has no type here. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// As for [`Client::execute`].
    pub fn execute_value(&self, name: &str, arguments: &Value, timeout: Duration) -> Result<Value, QmpError> {
        self.run(name, arguments, timeout)
    }

    /// A cursor that sees every event from now on.
    pub fn events(&self) -> EventCursor {
        EventCursor::from_now(Arc::clone(&self.link.shared))
    }

    /// The last lines each way, oldest first, `->` to and `<-` from QEMU, long ones cut: for error reports.
    pub fn transcript(&self) -> Vec<String> {
        self.link.shared.lock().transcript.lines()
    }

    fn negotiate(
        stream: UnixStream,
        socket: &Path,
        id: ConnectionId,
        deadline: Deadline,
    ) -> Result<Self, QmpError> {
        let link = Link::start(stream, id)
            .map_err(|source| QmpError::Connect { socket: socket.to_owned(), source: Arc::new(source) })?;
        let version = link.shared.wait("the greeting", deadline, |inner| inner.version.clone())?;
        Ok(Self { link, version })
    }

    fn run(&self, name: &str, arguments: &Value, timeout: Duration) -> Result<Value, QmpError> {
        let deadline = Deadline::after(timeout);
        // Known to the session before it is sent: the reply can be there before this thread goes on.
        let (id, line) = self.link.shared.request(name, arguments)?;
        self.link.send(&line, deadline);
        let result = self
            .link
            .shared
            .wait(name, deadline, |inner| inner.replies.remove(&id))
            .inspect_err(|_| self.link.shared.give_up(id))?;
        result.map_err(|source| QmpError::Refused { command: name.to_owned(), source })
    }
}

/// The two ends of a connection's work: the writer's, used by callers, and the reader thread's.
#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
    /// Held while a line is written, so that lines never mix.
    writer: Arc<Mutex<UnixStream>>,
    reader: Option<JoinHandle<()>>,
}

impl Link {
    fn start(stream: UnixStream, id: ConnectionId) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(id));
        let writer = Arc::new(Mutex::new(stream.try_clone()?));
        let reader = Reader { stream, shared: Arc::clone(&shared), writer: Arc::clone(&writer) };
        let reader = thread::Builder::new().name("qmp".to_owned()).spawn(move || reader.run())?;
        Ok(Self { shared, writer, reader: Some(reader) })
    }

    /// Sends a line. A failure reaches the caller, and all others, by the end of the connection.
    fn send(&self, line: &[u8], deadline: Deadline) {
        let writer = lock(&self.writer);
        match connection::send(&writer, line, deadline) {
            Ok(()) => {}
            // Nothing is out, and the caller is about to find that its time is up.
            Err(error) if error.is_harmless() => {}
            // The reader gets to the end of the input by itself, after what QEMU said last.
            Err(error) if connection::means_closed(&error.source) => {}
            // Half a line may be out: nothing more can be said on this connection.
            Err(error) => {
                self.shared.fail(connection::write_error(error.source));
                close(&writer);
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Before the socket is closed, so that waiters are told of this end and not of what the reader makes of it.
        self.shared.fail(SessionError::Closed);
        close(&lock(&self.writer));
        if let Some(reader) = self.reader.take() {
            // A panic in the reader has been reported by the panic hook; there is nobody to hand it to here.
            let _ = reader.join();
        }
    }
}

/// Feeds the session until the connection ends.
struct Reader {
    stream: UnixStream,
    shared: Arc<Shared>,
    writer: Arc<Mutex<UnixStream>>,
}

impl Reader {
    fn run(mut self) {
        let error = self.read_all();
        self.shared.fail(error);
        // QEMU serves one client at a time: it need not wait for this one to be dropped.
        close(&self.stream);
    }

    fn read_all(&mut self) -> SessionError {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return self.shared.end(),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) if connection::means_closed(&error) => return self.shared.end(),
                Err(error) => return SessionError::Io { operation: "read", source: Arc::new(error) },
            };
            let outgoing = match self.shared.receive(buffer.get(..count).unwrap_or_default()) {
                Ok(outgoing) => outgoing,
                Err(error) => return error,
            };
            for line in outgoing {
                // Without a deadline: this is negotiation, whose end its caller waits for by its own.
                let sent = connection::send(&lock(&self.writer), &line, Deadline::never());
                if let Err(error) = sent {
                    return connection::write_error(error.source);
                }
            }
        }
    }
}

/// Locks; a panic of another thread leaves nothing half-changed under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends both directions, which wakes the reader; fails only where the peer did it before.
fn close(stream: &UnixStream) {
    let _ = stream.shutdown(std::net::Shutdown::Both);
}
