//! Snapshot manifests: one JSON file each, readable by a person, enough to rebuild by hand.
//!
//! A manifest is written once all it names is durable and never changes, but for its parent when that is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, SnapshotId, SnapshotName, VmId, checked};
use crate::record::vm::{BaseRecord, DiskRecord, Hardware};
use crate::root::VmFolder;
use crate::root::file::allocated_bytes;

/// What a snapshot promises. Ordered by what a restored guest can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// Memory, devices and disks of one instant.
    Live,
    /// Disks of one instant, guest file systems frozen by the guest agent.
    Filesystem,
    /// Disks of one instant, guest running.
    Crash,
    /// The VM was not running.
    Off,
}

impl Grade {
    /// Whether a snapshot of this grade keeps what `required` promises.
    ///
    /// `off` has quiet disks, so it satisfies `crash`; whether the guest was shut down cleanly is not known, so it
    /// does not satisfy `filesystem`.
    pub fn satisfies(self, required: Self) -> bool {
        match required {
            Self::Live => self == Self::Live,
            Self::Filesystem => matches!(self, Self::Live | Self::Filesystem),
            Self::Crash => true,
            Self::Off => self == Self::Off,
        }
    }

    /// The grade's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Filesystem => "filesystem",
            Self::Crash => "crash",
            Self::Off => "off",
        }
    }
}

impl std::str::FromStr for Grade {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "live" => Ok(Self::Live),
            "filesystem" => Ok(Self::Filesystem),
            "crash" => Ok(Self::Crash),
            "off" => Ok(Self::Off),
            _ => {
                Err(Error::usage(format!("'{}' is not a grade", text.escape_debug())).with_hint(Hint::Grades))
            }
        }
    }
}

/// How the memory was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Migration of the running guest; its instant is at the end.
    Precopy,
    /// Background snapshot with write-protected memory; its instant is at the begin.
    Background,
    /// The guest stood still for the whole capture.
    Paused,
    /// No memory was taken.
    None,
}

impl Method {
    /// The method's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Background => "background",
            Self::Paused => "paused",
            Self::None => "none",
        }
    }
}

/// Why a snapshot exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// The user asked for it.
    User,
    /// It keeps the disks that a restore abandoned.
    Undo,
}

/// A complete snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The format's version.
    pub(crate) version: u32,
    /// The snapshot's id.
    pub(crate) id: SnapshotId,
    /// The VM's; not there in manifests of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vm_id: Option<VmId>,
    /// Its name, unique within the VM.
    pub(crate) name: SnapshotName,
    /// Why it exists.
    pub(crate) origin: Origin,
    /// The snapshot from which the VM's state descended.
    pub(crate) parent: Option<SnapshotId>,
    /// When its instant was, as the host's clock has it.
    pub(crate) created: Timestamp,
    /// The user's words.
    pub(crate) message: Option<String>,
    /// The user's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// What it promises.
    pub(crate) grade: Grade,
    /// How the memory was taken.
    pub(crate) method: Method,
    /// How long the guest stood still, STOP to RESUME.
    pub(crate) pause_ms: f64,
    /// How long the command took.
    pub(crate) total_ms: f64,
    /// Whether the guest was running at the instant (a restore lets it run again).
    pub(crate) guest_running: bool,
    /// The machine.
    pub(crate) hardware: Hardware,
    /// The frozen layer of each disk.
    pub(crate) disks: Vec<FrozenDisk>,
    /// The memory and device state.
    pub(crate) memory: Option<MemoryRecord>,
}

/// The content of one disk at the instant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FrozenDisk {
    /// The disk.
    #[serde(deserialize_with = "checked::disk_name")]
    pub(crate) name: String,
    /// The frozen layer that holds the content.
    pub(crate) layer: LayerId,
    /// Bytes that layer takes on disk.
    #[serde(deserialize_with = "checked::bytes")]
    pub(crate) bytes: u64,
    /// The layers below it, nearest first, down to the base's location: for people, and to make a lost record anew.
    pub(crate) below: Vec<String>,
    /// The base, as the VM's record has it; not there in manifests of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<BaseRecord>,
}

impl FrozenDisk {
    /// The layer of a disk that is active now, as the manifest of a snapshot names it.
    pub(crate) fn of(folder: &VmFolder, disk: &DiskRecord) -> Self {
        let chain = disk.chain(&disk.active).unwrap_or_default();
        let below = chain.iter().skip(1).map(|layer| format!("{layer}.qcow2"));
        Self {
            name: disk.name.clone(),
            layer: disk.active.clone(),
            bytes: allocated_bytes(&folder.layer(&disk.name, &disk.active)),
            below: below.chain([disk.base.location.clone()]).collect(),
            base: Some(disk.base.clone()),
        }
    }
}

/// A duration as the product's `*_ms` numbers: milliseconds with three decimals.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The memory image in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MemoryRecord {
    /// The image's id in the store.
    #[serde(deserialize_with = "checked::image")]
    pub(crate) image: String,
    /// All memory of the machine, in bytes.
    #[serde(deserialize_with = "checked::bytes")]
    pub(crate) bytes: u64,
    /// Of these, in pages of zeros.
    #[serde(deserialize_with = "checked::bytes")]
    pub(crate) zero_bytes: u64,
    /// Of these, not stored before.
    #[serde(deserialize_with = "checked::bytes")]
    pub(crate) new_bytes: u64,
    /// What the image takes on disk.
    #[serde(deserialize_with = "checked::bytes")]
    pub(crate) stored_bytes: u64,
}

impl Manifest {
    /// Writes the manifest, durable when it returns. All it names must be durable before.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        folder.files().write_json(&folder.manifest(&self.id), self)
    }
}

#[cfg(test)]
mod tests {
    use super::Grade::{Crash, Filesystem, Live, Off};

    /// `--require` must never be satisfied by a snapshot that keeps less.
    #[test]
    fn a_grade_satisfies_only_what_it_promises() {
        let kept =
            |required: super::Grade| [Live, Filesystem, Crash, Off].map(|grade| grade.satisfies(required));
        assert_eq!(kept(Live), [true, false, false, false]);
        assert_eq!(kept(Filesystem), [true, true, false, false]);
        assert_eq!(kept(Crash), [true, true, true, true]);
        assert_eq!(kept(Off), [false, false, false, true]);
    }
}
