//! What a restore would do.

use serde::Serialize;

use crate::view::RestoreMode;

/// The plan of a restore; nothing of it is done.
#[derive(Debug, Clone, Serialize)]
pub struct RestorePlanView {
    /// The VM.
    pub vm: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// How it is meant to come back; a host can refuse `lazy`.
    pub mode: RestoreMode,
    /// Whether the guest runs afterwards.
    pub runs_after: bool,
    /// The QEMU process that ends; null where none runs. What its guest has in memory is lost.
    pub ends_pid: Option<u32>,
    /// In which order.
    pub order: RestoreOrder,
    /// Why that process ends before the next one starts, where it does.
    pub why: Option<String>,
    /// Whether the disks as they are now are kept as an undo point.
    pub keeps_undo: bool,
    /// What the layers take that the present state leaves behind, in bytes: kept with the undo point, or removed.
    pub abandoned_bytes: u64,
}

/// In which order QEMUs end and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreOrder {
    /// None runs, so none ends.
    NothingRuns,
    /// The new one is proven before the old one ends.
    StartThenEnd,
    /// The old one ends, and none follows.
    EndOnly,
    /// The old one ends before it is known whether the new one starts.
    EndThenStart,
}
