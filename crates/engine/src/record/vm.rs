//! `vm.json`: a VM's command line as the user gave it, its disks with all their layers, and its current snapshot.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::{LayerId, SnapshotId, VmId, VmName};
use crate::record::RECORD_VERSION;
use crate::root::VmFolder;
use crate::root::file::{read_json, write_json};

/// A VM under management. Replaced whole, by rename.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VmRecord {
    /// The format's version.
    pub(crate) version: u32,
    /// Kept for the VM's life.
    pub(crate) id: VmId,
    /// The VM's name, equal to its folder's.
    pub(crate) name: VmName,
    /// When it was put under management.
    pub(crate) created: Timestamp,
    /// The hardware configuration of its next start.
    pub(crate) hardware: Hardware,
    /// The writable disks, in the order of the command line.
    pub(crate) disks: Vec<DiskRecord>,
    /// The media that the VM can only read: recorded, not captured.
    pub(crate) media: Vec<MediumRecord>,
    /// The snapshot from which the present state descends directly.
    pub(crate) current: Option<SnapshotId>,
}

/// What makes the same machine again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hardware {
    /// The command line word for word, but for the versioned machine type; placeholders are kept.
    pub(crate) command_line: Vec<String>,
    /// The folder in which relative paths of the command line mean something.
    pub(crate) working_dir: String,
    /// The QEMU that resolved the machine type, as `10.0.2`.
    pub(crate) qemu_version: String,
}

/// One writable disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DiskRecord {
    /// Unique within the VM; also the folder's name.
    pub(crate) name: String,
    /// The user's image at the bottom.
    pub(crate) base: BaseRecord,
    /// Every delta of this disk that exists, parents before children.
    pub(crate) layers: Vec<LayerRecord>,
    /// The delta that the VM writes.
    pub(crate) active: LayerId,
}

/// One read-only medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MediumRecord {
    /// The drive's name.
    pub(crate) name: String,
    /// The image in it.
    pub(crate) image: BaseRecord,
}

/// The user's image: never written, never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseRecord {
    /// An absolute path, a URI, or `json:{...}`, as QEMU takes it for a backing file.
    pub(crate) location: String,
    /// The image format, never guessed again later.
    pub(crate) format: String,
    /// The size that the guest sees, in bytes.
    pub(crate) virtual_bytes: u64,
    /// For a regular file: how it looked when it was taken over.
    pub(crate) file: Option<FileMark>,
}

/// Size and time of a file, to notice that somebody changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileMark {
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// Modification time: seconds since 1970.
    pub(crate) modified_s: i64,
    /// And nanoseconds.
    pub(crate) modified_ns: u32,
}

/// One delta.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Its id; the file is `layers/DISK/ID.qcow2`.
    pub(crate) id: LayerId,
    /// What it is a delta to; `None` is the base.
    pub(crate) parent: Option<LayerId>,
}

impl VmRecord {
    /// Reads the record of the VM in `folder`.
    ///
    /// # Errors
    /// `NotFound` where there is no such VM, `Damaged` for a record that can't be read.
    pub(crate) fn load(folder: &VmFolder, name: &VmName) -> Result<Self> {
        let path = folder.record();
        let record: Self = read_json(&path, RECORD_VERSION)?.ok_or_else(|| {
            Error::not_found(format!("there is no VM '{name}'")).hint("`vmrewind vm list` shows all VMs")
        })?;
        record.check(&path, name)?;
        Ok(record)
    }

    /// Reads the record of the VM that `folder` is named after.
    pub(crate) fn read(folder: &VmFolder) -> Result<Self> {
        let name = folder.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Self::load(folder, &name.parse()?)
    }

    /// Writes the record, durable when it returns.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        write_json(&folder.record(), self)
    }

    fn check(&self, path: &Path, name: &VmName) -> Result<()> {
        let damaged = |what: String| {
            Err(Error::damaged(format!("'{}' is damaged: {what}", path.display()))
                .hint("put it back from a backup; docs/format.md says what it holds"))
        };
        if self.name != *name {
            return damaged(format!("it is the record of VM '{}'", self.name));
        }
        for disk in &self.disks {
            if disk.name.contains('/') || disk.name.starts_with('.') || disk.name.is_empty() {
                return damaged(format!("disk name '{}'", disk.name.escape_debug()));
            }
            if disk.chain(&disk.active).is_none() {
                return damaged(format!("disk '{}' has no whole chain for its active layer", disk.name));
            }
        }
        Ok(())
    }

    /// The disk of that name.
    pub(crate) fn disk(&self, name: &str) -> Option<&DiskRecord> {
        self.disks.iter().find(|disk| disk.name == name)
    }
}

impl DiskRecord {
    /// The layers from `layer` down to the last one above the base. `None` where one is missing or they go in a ring.
    pub(crate) fn chain(&self, layer: &LayerId) -> Option<Vec<LayerId>> {
        let mut chain = Vec::new();
        let mut next = Some(layer.clone());
        while let Some(id) = next {
            let record = self.layers.iter().find(|record| record.id == id)?;
            if chain.len() > self.layers.len() {
                return None;
            }
            next = record.parent.clone();
            chain.push(id);
        }
        Some(chain)
    }

    /// Adds a layer on `parent` and makes it the active one.
    pub(crate) fn push_active(&mut self, layer: LayerId, parent: Option<LayerId>) {
        self.layers.push(LayerRecord { id: layer.clone(), parent });
        self.active = layer;
    }

    /// Forgets a layer.
    pub(crate) fn forget(&mut self, layer: &LayerId) {
        self.layers.retain(|record| record.id != *layer);
    }
}
