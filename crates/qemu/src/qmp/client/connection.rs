//! Unix stream sockets with deadlines; nothing here knows QMP.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::qmp::error::{QmpError, SessionError};

/// The end of a wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// None: never. So is a timeout too long for the clock.
    at: Option<Instant>,
    timeout: Duration,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self { at: Instant::now().checked_add(timeout), timeout }
    }

    pub(super) fn never() -> Self {
        Self { at: None, timeout: Duration::MAX }
    }

    /// The timeout that was asked for.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What is left: None when it is over, `Some(None)` when it never is.
    pub(super) fn left(&self) -> Option<Option<Duration>> {
        let Some(at) = self.at else { return Some(None) };
        let left = at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(Some(left))
    }

    /// What is left as a socket timeout, which is counted in microseconds and where zero would mean forever.
    pub(super) fn socket_timeout(&self) -> io::Result<Option<Duration>> {
        let left = self.left().ok_or(io::ErrorKind::TimedOut)?;
        Ok(left.map(|left| left.max(Duration::from_millis(1))))
    }
}

/// How often a starting QEMU is asked for its socket. Short in the first tenth of a second, in which one is ready: a
/// restore waits for this.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pause: Duration,
    longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { pause: Duration::from_micros(500), longest: Duration::from_millis(20) }
    }
}

impl Patience {
    fn wait(&mut self) {
        thread::sleep(self.pause);
        self.pause = self.pause.mul_f32(1.03).min(self.longest);
    }
}

/// Connects once.
pub(super) fn connect(socket: &Path, deadline: Deadline) -> Result<UnixStream, QmpError> {
    try_connect(socket, deadline).map_err(|source| connect_error(socket, source, deadline))
}

/// Connects as soon as somebody listens.
pub(super) fn connect_waiting(
    socket: &Path,
    deadline: Deadline,
    mut patience: Patience,
    mut still_alive: impl FnMut() -> bool,
) -> Result<UnixStream, QmpError> {
    loop {
        // Asked first: a QEMU that ended after this had its chance to be connected to below.
        let alive = still_alive();
        match try_connect(socket, deadline) {
            Err(error) if is_not_yet(&error) => {
                if !alive {
                    return Err(QmpError::Ended { socket: socket.to_owned() });
                }
                patience.wait();
                if deadline.left().is_none() {
                    return Err(connect_error(socket, error, deadline));
                }
            }
            result => return result.map_err(|source| connect_error(socket, source, deadline)),
        }
    }
}

/// Why a line is not, or not wholly, out.
#[derive(Debug)]
pub(super) struct SendError {
    written_bytes: usize,
    pub(super) source: io::Error,
}

impl SendError {
    /// Whether the stream is as it was: the time was up before anything could be written.
    pub(super) fn is_harmless(&self) -> bool {
        self.written_bytes == 0 && self.source.kind() == io::ErrorKind::TimedOut
    }
}

/// Writes all of `bytes`; `TimedOut` at the deadline.
pub(super) fn send(stream: &UnixStream, bytes: &[u8], deadline: Deadline) -> Result<(), SendError> {
    let mut written_bytes = 0;
    while let Some(rest) = bytes.get(written_bytes..).filter(|rest| !rest.is_empty()) {
        match send_some(stream, rest, deadline) {
            Ok(count) => written_bytes += count,
            Err(source) => return Err(SendError { written_bytes, source }),
        }
    }
    Ok(())
}

/// Whether the error says that the peer is gone.
pub(super) fn means_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// What a failed write means for the session.
pub(super) fn write_error(error: io::Error) -> SessionError {
    if means_closed(&error) {
        return SessionError::Closed;
    }
    SessionError::Io { operation: "write", source: Arc::new(error) }
}

fn send_some(stream: &UnixStream, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
    loop {
        set_socket_timeout(stream, Timeout::Send, deadline.socket_timeout()?)?;
        match rustix::net::send(stream, bytes, SendFlags::NOSIGNAL) {
            // EAGAIN is the socket's timeout: the next turn ends the wait.
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return Ok(result?),
        }
    }
}

fn try_connect(socket: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    loop {
        // Connecting blocks while the listener's queue is full.
        set_socket_timeout(&fd, Timeout::Send, deadline.socket_timeout()?)?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn connect_error(socket: &Path, source: io::Error, deadline: Deadline) -> QmpError {
    if source.kind() == io::ErrorKind::TimedOut {
        let doing = format!("a connection to {}", socket.display());
        return QmpError::Deadline { doing, timeout: deadline.timeout() };
    }
    QmpError::Connect { socket: socket.to_owned(), source: Arc::new(source) }
}
