//! What can be wrong with a command line, as data.
//!
//! [`CmdlineError`] is a command line that cannot be understood or edited; [`Refusal`] is one that is
//! understood but describes a VM whose restore points could not be trusted.

use std::fmt;

use thiserror::Error;

/// A command line that cannot be understood or edited as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CmdlineError {
    /// There is no word at all, not even the program.
    #[error("the QEMU command line is empty")]
    Empty,
    /// An option that is in no QEMU from 7.2 on; whether it takes an argument can't be guessed.
    #[error("QEMU option `{option}` is not known: it is not an option of QEMU 7.2 to 10.0")]
    UnknownOption {
        /// The word as written.
        option: String,
    },
    /// An option that needs an argument is the last word.
    #[error("QEMU option `{option}` needs an argument")]
    MissingArgument {
        /// The word as written.
        option: String,
    },
    /// JSON given to an option, or behind `json:`, does not parse.
    #[error("the JSON given to `{option}` is not valid")]
    Json {
        /// The option as written.
        option: String,
        /// Where and why.
        source: JsonError,
    },
    /// A key of an option has a value it cannot have.
    #[error("`{option}`: `{key}={value}` is not valid: {reason}")]
    Value {
        /// The option as written.
        option: String,
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What would be valid.
        reason: &'static str,
    },
    /// A block node is referred to but no `-blockdev` defines it.
    #[error("block node `{node}` is used by `{by}` but no -blockdev or -drive defines it")]
    UnknownNode {
        /// The missing name.
        node: String,
        /// The option that refers to it.
        by: String,
    },
    /// Block nodes refer to each other in a circle, or are nested too deep.
    #[error("block node `{node}` is part of a circle, or its graph is too deep")]
    NodeCycle {
        /// The node at which following was given up.
        node: String,
    },
    /// A block graph in which no single node can be given a delta.
    #[error("block node `{node}` (driver `{driver}`) can't be put on a delta: {reason}")]
    NodeUnsupported {
        /// The node, or the option where it has no name.
        node: String,
        /// Its driver.
        driver: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// Two block nodes, or two drives, of one name.
    #[error("block node or drive name `{name}` is given twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// The disk to edit is not of this command line.
    #[error("disk `{disk}` is not in this command line, or was edited already")]
    NoSuchDisk {
        /// The disk's name.
        disk: String,
    },
}

/// Where and why JSON text does not parse (a `serde_json::Error`, kept as text so that it can be compared).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct JsonError(pub String);

/// One reason why a VM of this command line is not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The option and its value, as written.
    pub option: String,
    /// Why it can't be supported.
    pub why: &'static str,
    /// What to do instead.
    pub hint: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`: {}; {}", self.option, self.why, self.hint)
    }
}
