//! The QMP commands that vmrewind uses, as types: one struct per command, named like it, with its reply.
//!
//! Names, fields and what is optional are those that `query-qmp-schema` of QEMU 10.0.2 gives; a field thought to be
//! missing in 7.2 or 8.2 has a default. Fields of replies that are not typed are kept in `other`, enum values that are
//! not known in `Other(..)`: a newer QEMU must not break an old vmrewind.

mod block;
mod jobs;
mod migration;
mod vm;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use block::{
    BlockNode, BlockdevAdd, BlockdevDel, BlockdevSnapshot, ImageInfo, QueryNamedBlockNodes, Transaction,
    TransactionAction,
};
pub use jobs::{JobDismiss, JobInfo, JobStatus, QueryJobs};
pub use migration::{
    CapabilityState, Migrate, MigrateCancel, MigrateContinue, MigrateIncoming, MigrateRecover,
    MigrateSetCapabilities, MigrateSetParameters, MigrationInfo, MigrationParameters, MigrationStatus,
    QueryMigrate, QueryMigrateCapabilities, QueryMigrateParameters, RamStats,
};
pub use vm::{
    ChardevInfo, Cont, DisplayUpdate, HumanMonitorCommand, KvmInfo, Memdev, QueryChardev, QueryKvm,
    QueryMemdev, QueryStatus, Quit, RunState, SetLink, StatusInfo, Stop, SystemPowerdown,
};

use super::error::QmpError;

/// A command: its fields are the arguments; a unit struct has none.
pub trait Command: Serialize {
    /// The name on the wire.
    const NAME: &'static str;
    /// What QEMU answers.
    type Reply: DeserializeOwned;
}

/// A command that QEMU runs out of band too, whatever its main loop does: `allow-oob` in its schema.
pub trait OutOfBand: Command {}

/// The reply of a command that has nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Nothing {}

/// Writes a command's arguments as JSON: an object, or null for none.
pub(super) fn to_arguments<C: Command>(command: &C) -> Result<Value, QmpError> {
    serde_json::to_value(command)
        .map_err(|source| QmpError::Arguments { command: C::NAME.to_owned(), source: Arc::new(source) })
}

/// Reads a reply.
pub(super) fn from_reply<C: Command>(value: Value) -> Result<C::Reply, QmpError> {
    serde_json::from_value(value)
        .map_err(|source| QmpError::Reply { command: C::NAME.to_owned(), source: Arc::new(source) })
}

/// Declares an enum of strings that keeps the values it doesn't know.
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)+
            /// A value that this version of vmrewind does not know.
            Other(String),
        }

        impl $name {
            /// The value as QEMU writes it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $($text => Self::$variant,)+
                    _ => Self::Other(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(super) use open_enum;

/// Declares commands without arguments.
macro_rules! plain_commands {
    ($($(#[$doc:meta])* $name:ident = $wire:literal -> $reply:ty;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
            pub struct $name;

            impl super::Command for $name {
                const NAME: &'static str = $wire;
                type Reply = $reply;
            }
        )+
    };
}
pub(super) use plain_commands;

/// Ties argument structs to their names and replies.
macro_rules! commands {
    ($($name:ident = $wire:literal -> $reply:ty;)+) => {
        $(impl super::Command for $name {
            const NAME: &'static str = $wire;
            type Reply = $reply;
        })+
    };
}
pub(super) use commands;

#[cfg(test)]
mod tests;
