//! Which VMs were cloned from a VM, and what of it they read: worked out from the records of all VMs, so that there is no
//! second list that could be wrong.
//!
//! A clone is made under its parent's lock (`ops/vm_clone.rs`), drafts included. So who holds that lock and asks here
//! sees every clone that there is or will be; nobody can add one meanwhile.

use std::fs;
use std::path::Path;

use crate::error::{ErrorKind, Result};
use crate::ids::{LayerId, SnapshotId, VmId};
use crate::layers::qcow2;
use crate::record::RECORD_VERSION;
use crate::record::snapshot::Manifest;
use crate::record::vm::{BaseLayer, CloneOrigin, DiskRecord, VmRecord};
use crate::root::file::io_error;
use crate::root::{VmFolder, may_be_dir};
use crate::vm_lock::VmLock;

/// A clone of a VM, as far as it needs that VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloneOf {
    /// Its name.
    pub(crate) name: String,
    /// The snapshot that it was made of; `None` where its record can't be read.
    pub(crate) snapshot: Option<SnapshotId>,
    /// Disks and frozen layers of the parent on which its disks lie.
    pub(crate) layers: Vec<(String, LayerId)>,
    /// Whether its first start will read the snapshot's memory, or may.
    pub(crate) needs_memory: bool,
}

impl CloneOf {
    /// Whether the clone can't do without this snapshot's memory, or may not be able to: of one whose record can't be read its
    /// layers tell which snapshot it was made of. `manifest` is none where that one can't be read either.
    pub(crate) fn needs_memory_of(&self, snapshot: &SnapshotId, manifest: Option<&Manifest>) -> bool {
        self.needs_memory
            && match (&self.snapshot, manifest) {
                (Some(origin), _) => origin == snapshot,
                (None, None) => true,
                (None, Some(manifest)) => manifest
                    .disks
                    .iter()
                    .all(|disk| self.layers.contains(&(disk.name.clone(), disk.layer.clone()))),
            }
    }
}

/// The clones of the VM in `parent`, by name. A clone of a clone is one of its own parent only.
///
/// # Errors
/// `Failed` where the root can't be read. Of a VM whose record can't be read the headers of its layers tell.
pub(crate) fn clones_of(parent: &VmFolder, id: &VmId) -> Result<Vec<CloneOf>> {
    let vms = parent.path().parent().unwrap_or(Path::new("/"));
    let cannot = |error| io_error(&format!("cannot read '{}'", vms.display()), error);
    let mut clones = Vec::new();
    for entry in fs::read_dir(vms).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = parent.beside(&entry.file_name());
        let is_draft = name.starts_with(".new-") && is_being_made(&folder);
        if !may_be_dir(folder.path()) || name.starts_with('.') && !is_draft {
            continue;
        }
        clones.extend(clone_of(&folder, &name, parent, id)?);
    }
    clones.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(clones)
}

fn clone_of(folder: &VmFolder, name: &str, parent: &VmFolder, id: &VmId) -> Result<Option<CloneOf>> {
    let record: VmRecord = match folder.files().read_json(&folder.record(), RECORD_VERSION) {
        Ok(Some(record)) => record,
        // A VM that has lost its record lies on its layers all the same.
        Ok(None) => return Ok(clone_by_headers(folder, name, parent)),
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Refused) => {
            return Ok(clone_by_headers(folder, name, parent));
        }
        Err(error) => return Err(error),
    };
    let on_parent = |disk: &DiskRecord| {
        let layer = disk.base.layer.as_ref().filter(|layer| layer.vm_id == *id)?;
        Some((layer.disk.clone(), layer.layer.clone()))
    };
    let layers: Vec<_> = record.disks.iter().filter_map(on_parent).collect();
    let origin = record.origin.as_ref().filter(|origin: &&CloneOrigin| origin.vm_id == *id);
    let snapshot = origin.map(|origin| origin.snapshot_id.clone());
    if snapshot.is_none() && layers.is_empty() {
        return Ok(None);
    }
    Ok(Some(CloneOf {
        name: record.name.to_string(),
        snapshot,
        layers,
        needs_memory: record.first_start.is_some(),
    }))
}

/// Whether a draft's command lives.
fn is_being_made(draft: &VmFolder) -> bool {
    !matches!(VmLock::try_take(&draft.lock()), Ok(Some(_)))
}

/// What the layers of a VM say whose record is damaged: the lowest ones name the parent's in their headers.
fn clone_by_headers(folder: &VmFolder, name: &str, parent: &VmFolder) -> Option<CloneOf> {
    let parent_name = parent.path().file_name()?.to_str()?;
    let disks = fs::read_dir(folder.path().join("layers")).into_iter().flatten().flatten();
    let files = disks.flat_map(|disk| fs::read_dir(disk.path()).into_iter().flatten().flatten());
    let named = files.filter_map(|file| qcow2::read_header(&file.path()).ok()??.backing_file);
    let layers: Vec<_> = named.filter_map(|path| BaseLayer::of_relative(&path, parent_name)).collect();
    (!layers.is_empty()).then(|| CloneOf {
        name: name.to_owned(),
        snapshot: None,
        layers,
        // It can be one that was never started.
        needs_memory: true,
    })
}
