//! What the engine shows of VMs and snapshots: plain values whose JSON is the product's contract.

pub(crate) mod clone;
pub(crate) mod restore;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::record::snapshot::{Grade, Manifest, Method, Origin};
use crate::record::snapshots::{DamagedManifest, Snapshots};
use crate::record::vm::VmRecord;
use crate::record::working_set::WorkingSet;
use crate::root::VmFolder;
use clone::{OriginView, StartMode};

/// What could be read of many, and why the rest could not.
#[derive(Debug)]
pub struct Listing<T> {
    /// What could be read.
    pub items: Vec<T>,
    /// One error for each VM that could not be read.
    pub unreadable: Vec<Error>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { items: Vec::new(), unreadable: Vec::new() }
    }
}

/// A VM, as `vm list` and `vm show` give it.
#[derive(Debug, Clone, Serialize)]
pub struct VmView {
    /// Its name.
    pub name: String,
    /// `running`, `paused`, `stopped`, `restoring`, `io-error`, `crashed`, `unresponsive`, or QEMU's word.
    pub state: String,
    /// The QEMU process.
    pub pid: Option<u32>,
    /// The QMP socket for users.
    pub qmp: Option<PathBuf>,
    /// The folder of sockets and logs.
    pub run: PathBuf,
    /// For each `{port:N}`, the host port in use.
    pub ports: BTreeMap<u16, u16>,
    /// The writable disks.
    pub disks: Vec<DiskState>,
    /// How many snapshots there are.
    pub snapshots: usize,
    /// The ids of those whose manifests can't be read.
    pub damaged_snapshots: Vec<String>,
    /// The snapshot from which the present state descends directly.
    pub current: Option<String>,
    /// When the VM was put under management; null where its record can't be read.
    pub created: Option<Timestamp>,
    /// The versioned machine type.
    pub machine: Option<String>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// The version of QEMU that the machine was resolved with.
    pub qemu_version: String,
    /// The command line as given, placeholders kept.
    pub command_line: Vec<String>,
    /// The snapshot that it was cloned from; null for what is no clone.
    pub origin: Option<OriginView>,
    /// How its next start goes.
    pub next_start: StartMode,
    /// The operation under way, or left by a dead command.
    pub operation: Option<String>,
    /// The restore whose memory still comes in; null where all is there.
    pub restore: Option<RestoreProgress>,
    /// Why vmrewind stopped the VM, where it was neither started nor restored since: its memory could not be read.
    pub failure: Option<RestoreFailure>,
    /// The file of QEMU's output.
    pub log: PathBuf,
}

/// A restore whose memory still comes in.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreProgress {
    /// The snapshot's name.
    pub snapshot: String,
    /// What the guest does meanwhile: `running`, `paused`.
    pub guest: String,
    /// Bytes that have come.
    pub done_bytes: u64,
    /// Bytes to come in all; zeros are not among them.
    pub total_bytes: u64,
}

/// Why vmrewind stopped a VM.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreFailure {
    /// The snapshot whose memory could not be read.
    pub snapshot: String,
    /// `damaged`, or `failed` where it could not be read for another reason.
    pub kind: ErrorKind,
    /// What was found.
    pub message: String,
}

/// A disk of a VM.
#[derive(Debug, Clone, Serialize)]
pub struct DiskState {
    /// Its name.
    pub name: String,
    /// The file that the VM writes.
    pub active: PathBuf,
    /// All files from the active one down to the base.
    pub chain: Vec<String>,
    /// The size the guest sees.
    pub virtual_bytes: u64,
    /// What the active layer takes on disk.
    pub active_bytes: u64,
}

/// A snapshot, as `snapshot create`, `list` and `show` give it.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotView {
    /// The VM.
    pub vm: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The name of the snapshot before it.
    pub parent: Option<String>,
    /// The names of those made after it.
    pub children: Vec<String>,
    /// The VMs that were cloned from it.
    pub clones: Vec<String>,
    /// When its instant was.
    pub created: Timestamp,
    /// The user's words.
    pub message: Option<String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// What it promises.
    pub grade: Grade,
    /// How memory was taken.
    pub method: Method,
    /// STOP to RESUME, in milliseconds.
    pub pause_ms: f64,
    /// How long the command took, in milliseconds.
    pub total_ms: f64,
    /// The frozen layers.
    pub disks: Vec<SnapshotDisk>,
    /// The memory image.
    pub memory: Option<MemoryView>,
    /// The pages that a restore sends first, as learnt from restores; null where none is known.
    pub working_set: Option<WorkingSetView>,
    /// Whether the VM's present state descends from it directly.
    pub current: bool,
    /// Whether a restore made it, to keep what was abandoned.
    pub undo: bool,
    /// Until when it can't be deleted (RFC 3339), or null.
    pub locked_until: Option<Timestamp>,
    /// When it was deleted, or null.
    pub deleted: Option<Timestamp>,
    /// The versioned machine type.
    pub machine: Option<String>,
    /// The version of QEMU that the machine was resolved with.
    pub qemu_version: String,
    /// The hardware configuration that a restore brings back.
    pub command_line: Vec<String>,
}

/// A snapshot whose manifest can't be read, as `snapshot list` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedSnapshot {
    /// The VM.
    pub vm: String,
    /// Its id; `VM@ID` deletes it.
    pub id: String,
    /// The name that it seems to have; null where nothing is left of it.
    pub name: Option<String>,
    /// What is wrong.
    pub damaged: String,
}

impl DamagedSnapshot {
    pub(crate) fn of(record: &VmRecord, manifest: &DamagedManifest) -> Self {
        Self {
            vm: record.name.to_string(),
            id: manifest.id.to_string(),
            name: manifest.name.as_ref().map(ToString::to_string),
            damaged: manifest.why.clone(),
        }
    }
}

/// A disk of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotDisk {
    /// The disk's name.
    pub name: String,
    /// The id of the frozen layer.
    pub layer: String,
    /// What that layer takes on disk, in bytes.
    pub bytes: u64,
}

/// The memory of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryView {
    /// All memory of the machine, in bytes.
    pub bytes: u64,
    /// Of these, in pages of zeros.
    pub zero_bytes: u64,
    /// Of these, not stored before.
    pub new_bytes: u64,
    /// What the image added to the store.
    pub stored_bytes: u64,
    /// What the store keeps for this image alone: deleting the snapshot frees it. Only `snapshot show` asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
    /// What the store keeps for this image and for others. Only `snapshot show` asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
}

/// The working set of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct WorkingSetView {
    /// How many pages.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many restores it was learnt from; 0 is a guess made at the capture.
    pub restores: u32,
}

/// How a machine comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreMode {
    /// The guest runs while its memory still comes in.
    Lazy,
    /// All memory was loaded before the guest ran.
    Eager,
    /// There is no memory: the guest boots, or stays off as it was.
    Cold,
}

/// What became of the clock of a guest that goes on where it was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestClock {
    /// The guest agent set it.
    Set,
    /// It is behind by the time since the snapshot; a note says why.
    Behind,
}

/// The result of a restore.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreView {
    /// The VM.
    pub vm: String,
    /// The snapshot's name.
    pub snapshot: String,
    /// `lazy`, `eager` or `cold`.
    pub mode: RestoreMode,
    /// From the command's begin to the guest running, in milliseconds; null where it does not run.
    pub start_ms: Option<f64>,
    /// The snapshot that keeps the disks as they were, `VM@NAME`, or null where nothing was abandoned.
    pub undo: Option<String>,
    /// The guest's state now: `running`, `paused`, or `stopped` where there is none.
    pub state: String,
    /// `set` or `behind`: the guest's clock; null where there is no guest, or it boots.
    pub clock: Option<GuestClock>,
    /// For each `{port:N}` of the command line the host's port.
    pub ports: BTreeMap<u16, u16>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl SnapshotView {
    /// The view of one of `all` snapshots of a VM.
    pub(crate) fn of(folder: &VmFolder, record: &VmRecord, all: &Snapshots, manifest: &Manifest) -> Self {
        let name_of = |id| all.by_id(id).map(|parent| parent.name.to_string());
        let children = all.sound.iter().filter(|child| child.parent.as_ref() == Some(&manifest.id));
        Self {
            vm: record.name.to_string(),
            name: manifest.name.to_string(),
            id: manifest.id.to_string(),
            parent: manifest.parent.as_ref().and_then(name_of),
            children: children.map(|child| child.name.to_string()).collect(),
            clones: Vec::new(),
            created: manifest.created,
            message: manifest.message.clone(),
            labels: manifest.labels.clone(),
            grade: manifest.grade,
            method: manifest.method,
            pause_ms: manifest.pause_ms,
            total_ms: manifest.total_ms,
            disks: manifest
                .disks
                .iter()
                .map(|disk| SnapshotDisk {
                    name: disk.name.clone(),
                    layer: disk.layer.to_string(),
                    bytes: disk.bytes,
                })
                .collect(),
            memory: manifest.memory.as_ref().map(|memory| MemoryView {
                bytes: memory.bytes,
                zero_bytes: memory.zero_bytes,
                new_bytes: memory.new_bytes,
                stored_bytes: memory.stored_bytes,
                exclusive_bytes: None,
                shared_bytes: None,
            }),
            working_set: WorkingSet::load(folder, &manifest.id).map(|set| WorkingSetView {
                pages: set.pages(),
                bytes: set.bytes(),
                restores: set.restores(),
            }),
            current: record.current.as_ref() == Some(&manifest.id),
            undo: manifest.origin == Origin::Undo,
            locked_until: None,
            deleted: None,
            machine: machine_of(&manifest.hardware.command_line),
            qemu_version: manifest.hardware.qemu_version.clone(),
            command_line: manifest.hardware.command_line.clone(),
        }
    }
}

/// The machine type of a command line.
pub(crate) fn machine_of(command_line: &[String]) -> Option<String> {
    vmrewind_qemu::cmdline::CommandLine::parse(command_line).ok()?.machine_type()
}
