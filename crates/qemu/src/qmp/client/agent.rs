//! The guest agent's client: one request at a time, on the caller's thread.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde_json::Value;

use super::connection::{self, Deadline};
use crate::qmp::agent::{AgentReply, AgentSession};
use crate::qmp::commands::{Command, from_reply, to_arguments};
use crate::qmp::error::{QmpError, SessionError};

/// A connection to the guest agent's channel.
///
/// QEMU opens the channel's socket whether or not an agent runs in the guest: without one, every command ends in
/// [`QmpError::Deadline`]. After a deadline the client synchronises again by itself, so that a `guest-fsfreeze-thaw`
/// can follow a freeze that took too long, and never gets the freeze's late reply.
#[derive(Debug)]
pub struct AgentClient {
    stream: UnixStream,
    session: AgentSession,
    next_sync: u32,
}

impl AgentClient {
    /// Connects to the socket; the agent itself is first asked by the first command.
    ///
    /// `first_sync` tells this client's synchronisations from those of others: a random number.
    ///
    /// # Errors
    /// [`QmpError::Connect`].
    pub fn connect(socket: &Path, first_sync: u32, timeout: Duration) -> Result<Self, QmpError> {
        let stream = connection::connect(socket, Deadline::after(timeout))?;
        Ok(Self { stream, session: AgentSession::default(), next_sync: first_sync })
    }

    /// Runs a command and waits for its reply, synchronising first where that is needed.
    ///
    /// # Errors
    /// As for [`super::Client::execute`].
    pub fn execute<C: Command>(&mut self, command: &C, timeout: Duration) -> Result<C::Reply, QmpError> {
        let deadline = Deadline::after(timeout);
        let arguments = to_arguments(command)?;
        if !self.session.is_synced() {
            self.sync(deadline)?;
        }
        let result = self.run(C::NAME, &arguments, deadline)?;
        let value = result.map_err(|source| QmpError::Refused { command: C::NAME.to_owned(), source })?;
        from_reply::<C>(value)
    }

    fn sync(&mut self, deadline: Deadline) -> Result<(), QmpError> {
        let bytes = self.session.sync(self.next_sync);
        self.next_sync = self.next_sync.wrapping_add(1);
        self.exchange("guest-sync-delimited", &bytes, deadline).map(|_| ())
    }

    fn run(&mut self, name: &str, arguments: &Value, deadline: Deadline) -> Result<AgentReply, QmpError> {
        let lost = |source| QmpError::Lost { doing: name.to_owned(), source };
        let bytes = self.session.request(name, arguments).map_err(lost)?;
        self.exchange(name, &bytes, deadline)
    }

    fn exchange(&mut self, doing: &str, bytes: &[u8], deadline: Deadline) -> Result<AgentReply, QmpError> {
        let result = self.try_exchange(doing, bytes, deadline);
        if result.is_err() {
            self.session.give_up();
        }
        result
    }

    fn try_exchange(
        &mut self,
        doing: &str,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<AgentReply, QmpError> {
        let lost = |source| QmpError::Lost { doing: doing.to_owned(), source };
        let failed = |operation: &'static str, error: std::io::Error| match error.kind() {
            std::io::ErrorKind::TimedOut => {
                QmpError::Deadline { doing: doing.to_owned(), timeout: deadline.timeout() }
            }
            _ if connection::means_closed(&error) => lost(SessionError::Closed),
            _ => lost(SessionError::Io { operation, source: Arc::new(error) }),
        };
        connection::send(&self.stream, bytes, deadline).map_err(|error| failed("write", error.source))?;
        let mut buffer = [0; 4096];
        loop {
            if let Some(reply) = self.session.poll().map_err(lost)? {
                return Ok(reply);
            }
            match read(&mut self.stream, &mut buffer, deadline).map_err(|error| failed("read", error))? {
                0 => return Err(lost(self.session.end())),
                count => self.session.receive(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// Reads some bytes; 0 at the end of the input.
fn read(stream: &mut UnixStream, buffer: &mut [u8], deadline: Deadline) -> std::io::Result<usize> {
    loop {
        set_socket_timeout(&*stream, Timeout::Recv, deadline.socket_timeout()?)?;
        match stream.read(buffer) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock
                ) => {}
            result => return result,
        }
    }
}
