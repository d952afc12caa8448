//! `vm.json`: a VM's command line as the user gave it, its disks with all their layers, and its current snapshot.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, SnapshotId, SnapshotName, VmId, VmName, checked};
use crate::record::RECORD_VERSION;
use crate::root::VmFolder;

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
    /// The snapshot that the VM was cloned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<CloneOrigin>,
    /// Set in a clone that was never started: the memory that its guest goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_start: Option<FirstStart>,
}

/// The snapshot that a clone was made of, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloneOrigin {
    /// The VM's name.
    pub(crate) vm: VmName,
    /// And id.
    pub(crate) vm_id: VmId,
    /// The snapshot's name.
    pub(crate) snapshot: SnapshotName,
    /// And id.
    pub(crate) snapshot_id: SnapshotId,
}

/// How the first start of a clone goes on from its origin's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FirstStart {
    /// The memory image, the origin's.
    #[serde(deserialize_with = "checked::image")]
    pub(crate) image: String,
    /// Whether the guest ran at the instant.
    pub(crate) guest_running: bool,
    /// Whether its network links stay as they were, in place of being unplugged.
    pub(crate) link_up: bool,
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
    #[serde(deserialize_with = "checked::disk_name")]
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
    #[serde(deserialize_with = "checked::bytes")]
    pub(crate) virtual_bytes: u64,
    /// For a regular file: how it looked when it was taken over.
    pub(crate) file: Option<FileMark>,
    /// Of a clone's disk: the other VM's frozen layer that this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layer: Option<BaseLayer>,
}

/// A frozen layer of another VM, on which a clone's disk lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseLayer {
    /// The VM's name.
    pub(crate) vm: VmName,
    /// And id.
    pub(crate) vm_id: VmId,
    /// Its disk.
    #[serde(deserialize_with = "checked::disk_name")]
    pub(crate) disk: String,
    /// The layer.
    pub(crate) layer: LayerId,
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
    /// How its file looked when it was frozen and synced; `None` as long as it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frozen: Option<FileMark>,
}

impl FileMark {
    /// The time, as people read it.
    pub(crate) fn modified(&self) -> String {
        let nanoseconds = i32::try_from(self.modified_ns).unwrap_or(0);
        let time = Timestamp::new(self.modified_s, nanoseconds);
        time.map_or_else(|_| format!("{} s after 1970", self.modified_s), |time| time.to_string())
    }
}

impl VmRecord {
    /// Reads the record of the VM in `folder`.
    ///
    /// # Errors
    /// `NotFound` where there is no such VM, `Damaged` for a record that can't be read.
    pub(crate) fn load(folder: &VmFolder, name: &VmName) -> Result<Self> {
        let path = folder.record();
        let mut record: Self = folder.files().read_json(&path, RECORD_VERSION)?.ok_or_else(|| {
            if folder.is_a_vm() {
                return Error::damaged(format!("'{}' is missing", path.display()))
                    .with_hint(Hint::PutRecordBack);
            }
            Error::not_found(format!("there is no VM '{name}'")).with_hint(Hint::ListVms)
        })?;
        record.check(&path, name)?;
        record.place_bases(folder);
        Ok(record)
    }

    /// Names the layers of other VMs by where the root is now: it can have been moved.
    fn place_bases(&mut self, folder: &VmFolder) {
        for base in self.disks.iter_mut().map(|disk| &mut disk.base) {
            if let Some(layer) = &base.layer {
                base.location = layer.path(folder).display().to_string();
            }
        }
    }

    /// Reads the record of the VM that `folder` is named after.
    pub(crate) fn read(folder: &VmFolder) -> Result<Self> {
        let name = folder.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Self::load(folder, &name.parse()?)
    }

    /// Writes the record, durable when it returns.
    pub(crate) fn save(&self, folder: &VmFolder) -> Result<()> {
        folder.files().write_json(&folder.record(), self)
    }

    fn check(&self, path: &Path, name: &VmName) -> Result<()> {
        let damaged = |what: String| {
            Err(Error::damaged(format!("'{}' is damaged: {what}", path.display()))
                .with_hint(Hint::PutRecordBack))
        };
        if self.name != *name {
            return damaged(format!("it is the record of VM '{}'", self.name));
        }
        let origin = self.origin.as_ref().map(|origin| origin.snapshot_id.as_str());
        if let Some(first) = self.first_start.as_ref().filter(|first| Some(first.image.as_str()) != origin) {
            return damaged(format!(
                "memory image '{}' is not that of the snapshot it was cloned from",
                first.image
            ));
        }
        for disk in &self.disks {
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

impl BaseLayer {
    /// The layer's file, as seen from the folder of the VM that lies on it.
    pub(crate) fn path(&self, folder: &VmFolder) -> PathBuf {
        folder.neighbour(&self.vm).layer(&self.disk, &self.layer)
    }

    /// The layer's file as the header of a delta names it, so that a root can be moved.
    pub(crate) fn relative(&self) -> String {
        format!("../../../{}/layers/{}/{}.qcow2", self.vm, self.disk, self.layer)
    }

    /// The disk and layer that a delta's header names, if they are of the VM `vm`. The inverse of [`Self::relative`].
    pub(crate) fn of_relative(path: &str, vm: &str) -> Option<(String, LayerId)> {
        let rest = path.strip_prefix("../../../")?.strip_prefix(vm)?.strip_prefix("/layers/")?;
        let (disk, file) = rest.split_once('/')?;
        Some((disk.to_owned(), file.strip_suffix(".qcow2")?.parse().ok()?))
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
        self.layers.push(LayerRecord { id: layer.clone(), parent, frozen: None });
        self.active = layer;
    }

    /// Forgets a layer.
    pub(crate) fn forget(&mut self, layer: &LayerId) {
        self.layers.retain(|record| record.id != *layer);
    }
}
