//! What can go wrong between us and QEMU's monitor, told apart by what the caller can do about it.
//!
//! [`SessionError`] ends a connection: nothing more will come from it, and every waiter gets a copy.
//! [`QmpError`] is what one call returns: it names the command or the wait, and keeps the cause.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::message::CommandError;

/// Why a connection to QEMU's monitor or to a guest agent is over.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer closed the connection between two messages: QEMU ended, or the client was dropped.
    #[error("the connection is closed")]
    Closed,
    /// The peer closed the connection inside a message.
    #[error("the connection was closed {bytes} bytes into a message")]
    HalfLine {
        /// How much of the message had come.
        bytes: usize,
    },
    /// A message is longer than any real one.
    #[error("a message is longer than {limit_bytes} bytes")]
    LineTooLong {
        /// The bound on one line.
        limit_bytes: usize,
    },
    /// A line is not JSON.
    #[error("a message is not JSON: {line}")]
    Malformed {
        /// The start of the line.
        line: String,
        /// What the JSON parser says.
        source: Arc<serde_json::Error>,
    },
    /// A line is JSON, but not a message that may come now.
    #[error("an unexpected message ({reason}): {line}")]
    Unexpected {
        /// What is wrong with it.
        reason: &'static str,
        /// The start of the line.
        line: String,
    },
    /// QEMU refused `qmp_capabilities`.
    #[error("QEMU refused to leave negotiation")]
    NegotiationRefused {
        /// QEMU's answer.
        source: CommandError,
    },
    /// A request was made before the greeting and negotiation were over.
    #[error("the session is not ready for commands")]
    NotReady,
    /// The socket failed.
    #[error("cannot {operation} the monitor socket")]
    Io {
        /// `read` or `write`.
        operation: &'static str,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
}

/// Why a call on a QMP or guest agent client failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// The socket could not be connected to.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// QEMU ended before its socket could be connected to.
    #[error("QEMU ended before it opened {}", socket.display())]
    Ended {
        /// The socket's path.
        socket: PathBuf,
    },
    /// The connection ended while, or before, this was waited for.
    #[error("lost QEMU during {doing}")]
    Lost {
        /// The command or wait, e.g. `query-status` or `the greeting`.
        doing: String,
        /// Why the connection is over.
        source: SessionError,
    },
    /// QEMU answered with an error.
    #[error("{command} failed")]
    Refused {
        /// The command's name.
        command: String,
        /// Class and description, as QEMU gives them.
        source: CommandError,
    },
    /// No answer within the time given. The command may still take effect.
    #[error("no answer to {doing} within {} ms", timeout.as_millis())]
    Deadline {
        /// The command or wait.
        doing: String,
        /// The time given.
        timeout: Duration,
    },
    /// A cursor was so slow that events it has not seen were dropped.
    #[error("{count} events were dropped before they were read")]
    EventsLost {
        /// How many; the cursor goes on with the oldest one kept.
        count: u64,
    },
    /// A command's arguments do not form a JSON object.
    #[error("the arguments of {command} cannot be written as JSON")]
    Arguments {
        /// The command's name.
        command: String,
        /// What the serializer says.
        source: Arc<serde_json::Error>,
    },
    /// A reply lacks a field that every supported QEMU sends, or has it with another type.
    #[error("the reply to {command} has an unknown shape")]
    Reply {
        /// The command's name.
        command: String,
        /// What the deserializer says.
        source: Arc<serde_json::Error>,
    },
}

impl QmpError {
    /// Whether the peer is gone (closed, reset, or never came up), as opposed to alive but unhelpful.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Ended { .. }
                | Self::Lost { source: SessionError::Closed | SessionError::HalfLine { .. }, .. }
        )
    }

    /// QEMU's own answer, where it answered with an error.
    pub fn refusal(&self) -> Option<&CommandError> {
        match self {
            Self::Refused { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Cuts a line to what an error message can bear.
pub(super) fn excerpt(line: &[u8], limit_chars: usize) -> String {
    let bytes = &line[..line.len().min(limit_chars.saturating_mul(4))];
    let text = String::from_utf8_lossy(bytes);
    let mut cut: String = text.trim_end().chars().take(limit_chars).collect();
    if cut.len() < line.trim_ascii_end().len() {
        cut.push_str("...");
    }
    cut
}
