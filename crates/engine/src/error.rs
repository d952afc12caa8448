//! The engine's error: a kind that says what the caller can do, a message that says what was being done to which
//! object, an optional hint that says what to do next, and the cause.
//!
//! The cause is kept as a source and never repeated in `Display`; the command line prints the chain.

use std::error::Error as StdError;
use std::fmt;

use crate::hint::Hint;

/// What the caller can do about an error; maps one to one to the exit statuses of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// It failed and nothing changed (exit status 1).
    Failed,
    /// The request itself is wrong (exit status 2).
    Usage,
    /// Part of it was done; the message says what (exit status 3).
    Partial,
    /// No such VM or snapshot (exit status 4).
    NotFound,
    /// Refused: in use, locked, would lose data, a promise can't be met (exit status 5).
    Refused,
    /// Another operation holds the VM (exit status 6).
    Busy,
    /// Damaged data was found (exit status 7).
    Damaged,
    /// Interrupted by the user (exit status 130).
    Interrupted,
}

/// An error of the engine.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    /// Boxed, so that results stay small: most have neither error nor hint.
    hint: Option<Box<Hint>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything the engine does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of `kind`; `message` says what was being done, to which object, and why it failed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Makes an error of kind [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// Makes an error of kind [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Makes an error of kind [`ErrorKind::Refused`].
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// Makes an error of kind [`ErrorKind::Damaged`].
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// Makes an error of kind [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Makes the error that reports the user's interruption of `what`.
    pub fn interrupted(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Interrupted, format!("interrupted while {what}"))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: Hint) -> Self {
        self.hint = Some(Box::new(hint));
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts what another program said before the causes.
    #[must_use]
    pub(crate) fn with_words(mut self, words: String) -> Self {
        let source = self.source.take();
        self.because(Words { words, source })
    }

    /// Wraps this error in one of the same kind and hint whose message says what was being done.
    #[must_use]
    pub fn while_doing(self, message: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            message: message.into(),
            hint: self.hint.clone(),
            source: Some(Box::new(self)),
        }
    }

    /// Changes the kind, for a failure that left something changed.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do next, if known.
    pub fn hint(&self) -> Option<&Hint> {
        self.hint.as_deref()
    }

    /// The message with its causes, as a log or a record keeps them.
    pub(crate) fn in_one_line(&self) -> String {
        [vec![self.to_string()], self.causes()].concat().join(": ")
    }

    /// The messages of the causes, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }
}

/// What another program said, above the cause that was known already.
#[derive(Debug)]
struct Words {
    words: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl StdError for Words {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// What a tool printed on standard error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToolError(pub(crate) String);

/// Adds what was being done to the error of a library.
pub(crate) trait Context<T> {
    /// Turns an error into one of kind [`ErrorKind::Failed`] with this message and the old error as its cause.
    ///
    /// # Errors
    /// The wrapped error.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::failed(message()).because(error))
    }
}
