//! What the engine shows of clones.

use std::path::PathBuf;

use serde::Serialize;

use crate::record::vm::{CloneOrigin, VmRecord};
use crate::view::GuestClock;

/// How a VM comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartMode {
    /// Its guest goes on where that of the snapshot was.
    Warm,
    /// Its guest boots.
    Cold,
}

impl StartMode {
    /// How the next start of a VM goes.
    pub(crate) fn of(record: &VmRecord) -> Self {
        if record.first_start.is_some() { Self::Warm } else { Self::Cold }
    }
}

/// The snapshot that a VM was cloned from, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OriginView {
    /// Name of the VM.
    pub vm: String,
    /// Its id.
    pub vm_id: String,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Its id.
    pub snapshot_id: String,
}

impl OriginView {
    pub(crate) fn of(origin: &CloneOrigin) -> Self {
        Self {
            vm: origin.vm.to_string(),
            vm_id: origin.vm_id.to_string(),
            snapshot: origin.snapshot.to_string(),
            snapshot_id: origin.snapshot_id.to_string(),
        }
    }
}

/// The result of `vm clone`.
#[derive(Debug, Clone, Serialize)]
pub struct ClonesView {
    /// The VM that was cloned.
    pub vm: String,
    /// The snapshot that it was cloned at.
    pub snapshot: String,
    /// The clones, in order.
    pub clones: Vec<CloneView>,
    /// What was changed in every clone's command line so that it does not collide with its parent's. Values that
    /// differ from clone to clone are those of the first.
    pub changed: Vec<Changed>,
    /// What the clones have in common with their parent and each other, and how to mend that.
    pub not_unique: Vec<NotUnique>,
    /// What else the user should know.
    pub notes: Vec<String>,
    /// How long the command took.
    pub total_ms: f64,
}

/// One clone.
#[derive(Debug, Clone, Serialize)]
pub struct CloneView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// How it was started, or will be.
    pub start: StartMode,
    /// Whether it shares the pages that it has not changed with the other clones of the snapshot.
    pub memory_shared: bool,
    /// Its state now.
    pub state: String,
    /// Its QEMU.
    pub pid: Option<u32>,
    /// Its QMP socket for users.
    pub qmp: Option<PathBuf>,
    /// Its folder of sockets and logs.
    pub run: PathBuf,
    /// Network devices whose link is unplugged: `vm link NAME up` plugs them.
    pub links_down: Vec<String>,
    /// From the start of QEMU to the guest running, in milliseconds; null where it does not run.
    pub start_ms: Option<f64>,
    /// `set` or `behind`: the guest's clock; null where it boots, or does not run.
    pub clock: Option<GuestClock>,
    /// What the command inside gave; null where none was asked for, or none could be run.
    pub inside: Option<InsideView>,
    /// Why it is not as asked for; null where it is.
    pub error: Option<String>,
}

/// How a command in a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InsideView {
    /// Its exit status; null where a signal ended it.
    pub status: Option<i64>,
    /// That signal.
    pub signal: Option<i64>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A value of the command line that a clone has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Option and key.
    pub option: String,
    /// The parent's value.
    pub from: String,
    /// The clone's, placeholders not replaced.
    pub to: String,
}

/// Something that tells the clone apart from nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotUnique {
    /// What.
    pub what: String,
    /// Why, or until when.
    pub why: String,
    /// How to mend it.
    pub fix: String,
}
