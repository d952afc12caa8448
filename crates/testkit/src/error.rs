//! What can go wrong while a test sets its stage: one enum, each case naming what was being done and to what.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// A failure of the stage, not of what is being tested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that `./x setup` installs is not there.
    #[error("{what} is missing from {}: run `./x setup`", .searched.display())]
    Missing {
        /// What was looked for.
        what: String,
        /// Where it was looked for.
        searched: PathBuf,
    },
    /// A file or socket could not be used.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: run `./x setup` if it is not installed")]
    Start {
        /// The program.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{program} ended with {status}: {stderr}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A guest or QEMU did not do in time what was waited for.
    #[error("no {what} within {waited:?}; last of {seen} lines: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// How many lines had come until then.
        seen: usize,
        /// The last few of them.
        last: String,
    },
    /// A guest or QEMU answered something that was not understood, or refused.
    #[error("{to} was answered with {answer}")]
    Answer {
        /// The command.
        to: String,
        /// The answer.
        answer: String,
    },
}

/// The result of setting a stage.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an I/O error; for use with `map_err`.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
