//! Migration: how memory and device state leave QEMU and come back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Nothing, OutOfBand, commands, open_enum, plain_commands};
use crate::qmp::message::Event;

plain_commands! {
    /// `query-migrate`.
    QueryMigrate = "query-migrate" -> MigrationInfo;
    /// `migrate_cancel`: done at the `cancelled` event, not at the reply.
    MigrateCancel = "migrate_cancel" -> Nothing;
    /// `query-migrate-capabilities`.
    QueryMigrateCapabilities = "query-migrate-capabilities" -> Vec<CapabilityState>;
    /// `query-migrate-parameters`.
    QueryMigrateParameters = "query-migrate-parameters" -> MigrationParameters;
}

commands! {
    Migrate = "migrate" -> Nothing;
    MigrateIncoming = "migrate-incoming" -> Nothing;
    MigrateContinue = "migrate-continue" -> Nothing;
    MigrateRecover = "migrate-recover" -> Nothing;
    MigrateSetCapabilities = "migrate-set-capabilities" -> Nothing;
    MigrateSetParameters = "migrate-set-parameters" -> Nothing;
}

impl OutOfBand for MigrateRecover {}

open_enum! {
    /// QAPI's `MigrationStatus`.
    MigrationStatus {
        /// None was begun.
        None = "none",
        /// Being set up.
        Setup = "setup",
        /// Being cancelled.
        Cancelling = "cancelling",
        /// Cancelled.
        Cancelled = "cancelled",
        /// Pages flow.
        Active = "active",
        /// The destination runs, pages still flow.
        PostcopyActive = "postcopy-active",
        /// The source is lost in the middle of postcopy.
        PostcopyPaused = "postcopy-paused",
        /// A recovery is being set up (newer versions only).
        PostcopyRecoverSetup = "postcopy-recover-setup",
        /// Recovering.
        PostcopyRecover = "postcopy-recover",
        /// Over.
        Completed = "completed",
        /// Failed.
        Failed = "failed",
        /// In COLO.
        Colo = "colo",
        /// The VM is stopped and `migrate-continue` is waited for.
        PreSwitchover = "pre-switchover",
        /// Device state flows.
        Device = "device",
        /// Waits for a device to be unplugged.
        WaitUnplug = "wait-unplug",
    }
}

impl MigrationStatus {
    /// The status in a `MIGRATION` event (capability `events`); None for another event.
    pub fn of_event(event: &Event) -> Option<Self> {
        let status = event.data.get("status").and_then(Value::as_str)?;
        (event.name == "MIGRATION").then(|| Self::from(status.to_owned()))
    }

    /// Whether the guest of the destination can run while its memory still comes in.
    pub fn is_postcopy(&self) -> bool {
        matches!(
            self,
            Self::PostcopyActive | Self::PostcopyPaused | Self::PostcopyRecoverSetup | Self::PostcopyRecover
        )
    }

    /// Whether this migration will not go on.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::None | Self::Cancelled | Self::Completed | Self::Failed)
    }
}

/// QAPI's `MigrationInfo`. Every field is absent where it has no meaning.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MigrationInfo {
    /// Where it is; absent before the first migration.
    pub status: Option<MigrationStatus>,
    /// Counters of memory.
    pub ram: Option<RamStats>,
    /// From the start, in milliseconds.
    #[serde(rename = "total-time")]
    pub total_time_ms: Option<u64>,
    /// The pause that switching now is thought to cost.
    #[serde(rename = "expected-downtime")]
    pub expected_downtime_ms: Option<u64>,
    /// The pause that it cost.
    #[serde(rename = "downtime")]
    pub downtime_ms: Option<u64>,
    /// The time of set-up. In background-snapshot mode: the time that write protection took.
    #[serde(rename = "setup-time")]
    pub setup_time_ms: Option<u64>,
    /// Why it failed.
    #[serde(rename = "error-desc")]
    pub error_desc: Option<String>,
    /// What makes this VM impossible to migrate now, in QEMU's words.
    #[serde(rename = "blocked-reasons", default)]
    pub blocked_reasons: Vec<String>,
    /// Fields not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// QAPI's `MigrationStats` of memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamStats {
    /// Bytes sent.
    #[serde(rename = "transferred")]
    pub transferred_bytes: u64,
    /// Bytes to go.
    #[serde(rename = "remaining")]
    pub remaining_bytes: u64,
    /// Bytes of guest memory.
    #[serde(rename = "total")]
    pub total_bytes: u64,
    /// Zero pages sent.
    #[serde(default)]
    pub duplicate: u64,
    /// Whole pages sent.
    #[serde(default)]
    pub normal: u64,
    /// Pages dirtied per second.
    #[serde(default)]
    pub dirty_pages_rate: u64,
    /// Passes over the dirty bitmap.
    #[serde(default)]
    pub dirty_sync_count: u64,
    /// Pages that the destination asked for.
    #[serde(default)]
    pub postcopy_requests: u64,
    /// Bytes per page.
    #[serde(rename = "page-size", default)]
    pub page_size_bytes: u64,
    /// Fields not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `migrate`: begins; the end is told by `MIGRATION` events or [`QueryMigrate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Migrate {
    /// `unix:PATH`, ...
    pub uri: String,
}

impl Migrate {
    /// To an address as QEMU writes it.
    pub fn to_uri(uri: impl Into<String>) -> Self {
        Self { uri: uri.into() }
    }
}

/// `migrate-incoming`: starts a QEMU that was started with `-incoming defer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrateIncoming {
    /// `unix:PATH`, `file:PATH` (not in 7.2), ...
    pub uri: String,
}

/// `migrate-continue`: goes on from the state that the migration waits in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrateContinue {
    /// The state that it must be in: pre-switchover.
    pub state: MigrationStatus,
}

/// `migrate-recover`: listens for a new source of a paused postcopy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrateRecover {
    /// Where to listen or connect.
    pub uri: String,
}

/// A capability, on or off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityState {
    /// `pause-before-switchover`, `events`, `background-snapshot`, `postcopy-ram`, ...
    pub capability: String,
    /// On.
    pub state: bool,
}

/// `migrate-set-capabilities`: sets those named, all or none; the others stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrateSetCapabilities {
    /// What is set.
    pub capabilities: Vec<CapabilityState>,
}

impl MigrateSetCapabilities {
    /// Sets the capabilities named.
    pub fn of<'a>(capabilities: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let state = |(name, state): (&str, bool)| CapabilityState { capability: name.to_owned(), state };
        Self { capabilities: capabilities.into_iter().map(state).collect() }
    }
}

/// QAPI's `MigrationParameters`, as far as vmrewind sets them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationParameters {
    /// Bytes per second; 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// The pause that may be made by switching, in milliseconds.
    #[serde(rename = "downtime-limit", skip_serializing_if = "Option::is_none")]
    pub downtime_limit_ms: Option<u64>,
    /// Parameters not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `migrate-set-parameters`: sets those given; the others stay.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct MigrateSetParameters(pub MigrationParameters);
