//! `journal.json`: the operation under way on a VM, written before its first step that can't be taken back.
//!
//! An operation has at most two phases:
//!
//! ```text
//!            prepare                      commit
//!  (nothing) ------> Prepare(undo plan) --------> Commit(redo plan) ------> (nothing)
//!                    found after a crash:         found after a crash:
//!                    undone                       carried out again
//! ```
//! The step from one to the next is one atomic file replacement: that is the operation's commit point. Undoing and
//! redoing are idempotent, so a crash within them is harmless. An operation is undone only while its journal can be
//! read and says `Prepare`: one that is gone was carried out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vmrewind_qemu::cmdline::Later;

use crate::error::Result;
use crate::ids::{LayerId, SnapshotId, checked};
use crate::record::RECORD_VERSION;
use crate::record::snapshot::Manifest;
use crate::record::vm::VmRecord;
use crate::root::{SeatNumber, VmFolder};

/// The journal's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// The format's version.
    pub(crate) version: u32,
    /// The command, for people: `snapshot create`.
    pub(crate) operation: String,
    /// When it began.
    pub(crate) started: Timestamp,
    /// How far it is.
    pub(crate) phase: Phase,
}

/// How far an operation is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Not decided: to be undone.
    Prepare(Box<UndoPlan>),
    /// Decided: to be carried out.
    Commit(Box<RedoPlan>),
}

/// What an operation may have made before its commit point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UndoPlan {
    /// What is undone.
    pub(crate) cause: Cause,
    /// Deltas that were to become active.
    pub(crate) overlays: Vec<Overlay>,
    /// A memory image that was being written.
    #[serde(deserialize_with = "checked::maybe_image")]
    pub(crate) image: Option<String>,
    /// The QEMU process that ran before. A restore's undoing lets it go on, and ends any other QEMU of this VM: that
    /// was started by the restore.
    pub(crate) qemu: Option<ProcessMark>,
    /// Whether the guest ran before, and so must run again.
    pub(crate) guest_ran: bool,
    /// QEMU's migration settings as they were, where the operation changes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) migration: Option<MigrationSettings>,
    /// The QEMU that is to take that one's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) successor: Option<Successor>,
}

/// A QEMU that is started while the VM's own runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Successor {
    /// Its seat.
    pub(crate) seat: SeatNumber,
    /// Its working folder.
    pub(crate) working_dir: String,
    /// What it makes under other names meanwhile, or gets later.
    pub(crate) later: Vec<Later>,
}

/// What a capture changes of QEMU's migration settings, as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MigrationSettings {
    /// The capabilities that were on; all others were off.
    pub(crate) on: Vec<String>,
    /// Parameters by QEMU's names, and their values.
    pub(crate) parameters: Map<String, Value>,
}

/// What kind of operation made new layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// A capture: the VM can have been switched to them and have written to them.
    Capture,
    /// A restore: only a QEMU that the restore started can have written to them.
    Restore,
}

/// A delta that was made to become a disk's active layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// The disk.
    #[serde(deserialize_with = "checked::disk_name")]
    pub(crate) disk: String,
    /// The new delta.
    pub(crate) layer: LayerId,
    /// What it is a delta to; `None` is the base.
    pub(crate) parent: Option<LayerId>,
}

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessMark {
    /// Its pid.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub(crate) start_ticks: u64,
}

impl ProcessMark {
    /// The mark of a process that is there now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let after_name = stat.rsplit_once(')')?.1;
        let start_ticks = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }
}

/// What an operation has decided.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RedoPlan {
    /// The VM's new record.
    pub(crate) record: VmRecord,
    /// Manifests to write.
    pub(crate) write: Vec<Manifest>,
    /// Manifests to remove.
    pub(crate) remove: Vec<SnapshotId>,
    /// Deltas to remove.
    pub(crate) remove_layers: Vec<Overlay>,
    /// Memory images to remove.
    #[serde(deserialize_with = "checked::images")]
    pub(crate) remove_images: Vec<String>,
    /// Whether the VM's guest, loaded and waiting, is to run.
    pub(crate) resume: bool,
    /// The QEMU that ends with that, and what takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) succession: Option<Succession>,
}

/// One QEMU's place taken by another, or by none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Succession {
    /// The QEMU that ends.
    pub(crate) old: ProcessMark,
    /// Its seat.
    pub(crate) old_seat: SeatNumber,
    /// The seat of the one that follows.
    pub(crate) seat: Option<SeatNumber>,
    /// What it gets once the old one has given it up.
    pub(crate) later: Vec<Later>,
}

impl RedoPlan {
    /// A plan that writes the record and nothing else.
    pub(crate) fn of(record: VmRecord) -> Self {
        Self {
            record,
            write: Vec::new(),
            remove: Vec::new(),
            remove_layers: Vec::new(),
            remove_images: Vec::new(),
            resume: false,
            succession: None,
        }
    }
}

impl Journal {
    /// The journal of an operation that begins now.
    pub(crate) fn new(operation: &str, started: Timestamp, phase: Phase) -> Self {
        Self { version: RECORD_VERSION, operation: operation.to_owned(), started, phase }
    }

    /// Reads the journal of the VM in `folder`, if an operation was under way.
    pub(crate) fn load(folder: &VmFolder) -> Result<Option<Self>> {
        folder.files().read_json(&folder.journal(), RECORD_VERSION)
    }

    /// Writes the journal, durable when it returns.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        folder.files().write_json(&folder.journal(), self)
    }

    /// Whether an operation that has prepared itself may be undone. Not where its journal can't be read: it may be decided.
    pub(crate) fn may_be_undone(folder: &VmFolder) -> bool {
        matches!(Self::load(folder), Ok(Some(Self { phase: Phase::Prepare(_), .. })))
    }

    /// Removes the journal: the operation is over.
    ///
    /// That lasts once the folder is synced. Where it can't be, the operation is over all the same: a journal that a
    /// crash brings back is carried out again, and the next operation begins with a journal that is durable.
    pub(crate) fn clear(folder: &VmFolder) -> Result<()> {
        folder.files().remove_file(&folder.journal())?;
        if let Err(error) = folder.files().sync_parent(&folder.journal()) {
            tracing::info!("a crash can bring a finished journal back: {error}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = r#"{
        "version": 1, "id": "00000000000000000000000000000001", "name": "web", "created": "2026-01-02T03:04:05Z",
        "hardware": { "command_line": [], "working_dir": "/", "qemu_version": "10.0.2" },
        "disks": [], "media": [], "current": null
    }"#;

    /// Guards a carried-out operation from being undone: its journal is gone then. Neither may one be whose journal can't
    /// be read.
    #[test]
    fn only_what_is_known_to_be_undecided_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = VmFolder::at(dir.path().to_owned());
        let undo = UndoPlan {
            cause: Cause::Restore,
            overlays: Vec::new(),
            image: None,
            qemu: None,
            guest_ran: false,
            migration: None,
            successor: None,
        };
        let redo = RedoPlan::of(serde_json::from_str(VM).unwrap());
        let save = |phase| Journal::new("test", Timestamp::UNIX_EPOCH, phase).save(&folder).unwrap();

        save(Phase::Prepare(Box::new(undo)));
        assert!(Journal::may_be_undone(&folder));
        save(Phase::Commit(Box::new(redo)));
        assert!(!Journal::may_be_undone(&folder), "it is decided");
        std::fs::write(folder.journal(), "{").unwrap();
        assert!(!Journal::may_be_undone(&folder), "it may be decided");
        Journal::clear(&folder).unwrap();
        assert!(!Journal::may_be_undone(&folder), "it was carried out");
    }

    /// Guards the end of an operation where only the folder's sync fails, as that of one which can't be opened.
    #[test]
    fn a_folder_that_cannot_be_synced_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        Journal::clear(&VmFolder::at(dir.path().join("none"))).unwrap();
    }
}
