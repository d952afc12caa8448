//! Layers are watched: that each is what its VM's record says is looked at before anything relies on it.
//!
//! ```text
//!  every layer    a qcow2 header that can be right, and names the layer below by the record, or the base
//!  a frozen one   size and modification time as they were when it was frozen (docs/format.md)
//!  the active one below no other layer and in no manifest, and no layer there that vm.json does not name: else vm.json is
//!                 older than these, and QEMU would write into a layer that is frozen
//! ```
//! It costs a few system calls for each layer, so it is done at every start, capture, restore and clone. The guest's data in
//! a layer is not read: what was changed by somebody who sets the time back, or by the disk itself, is not noticed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::LayerId;
use crate::layers::below::parents;
use crate::layers::{base, qcow2};
use crate::record::snapshots::Snapshots;
use crate::record::vm::{BaseLayer, DiskRecord, FileMark, LayerRecord, VmRecord};
use crate::root::VmFolder;

/// How a layer looks now: for a layer that is frozen and synced.
///
/// # Errors
/// `Damaged` where it is missing.
pub(crate) fn mark(folder: &VmFolder, disk: &str, layer: &LayerId) -> Result<FileMark> {
    let path = folder.layer(disk, layer);
    let metadata = fs::metadata(&path).map_err(|error| missing(&path).because(error))?;
    Ok(base::file_mark(&metadata))
}

/// Looks at the chains of all of a VM's disks, from the active layers down.
///
/// # Errors
/// `Damaged`, naming the layer and what is wrong with it.
pub(crate) fn check_present(folder: &VmFolder, record: &VmRecord) -> Result<()> {
    record.disks.iter().try_for_each(|disk| check_chain(folder, disk, &disk.active))
}

/// Looks at a chain from `top` down, and at the parent's layers below where it is a clone's.
///
/// # Errors
/// As [`check_present`].
pub(crate) fn check_chain(folder: &VmFolder, disk: &DiskRecord, top: &LayerId) -> Result<()> {
    each(folder, disk, top, check_layer)?;
    check_base_layer(folder, disk)
}

/// Looks at the parent's layer on which a clone's disk lies, as the clone remembers it: for parents that have no mark of it.
fn check_base_layer(folder: &VmFolder, disk: &DiskRecord) -> Result<()> {
    let (Some(layer), Some(then)) = (&disk.base.layer, disk.base.file) else { return Ok(()) };
    let record = VmRecord::read(&folder.neighbour(&layer.vm)).ok();
    let layers =
        record.as_ref().and_then(|record| record.disk(&layer.disk)).into_iter().flat_map(|disk| &disk.layers);
    if layers.filter(|record| record.id == layer.layer).any(|record| record.frozen.is_some()) {
        return Ok(());
    }
    let path = layer.path(folder);
    let metadata = fs::metadata(&path).map_err(|error| missing(&path).because(error))?;
    match then.change_to(&base::file_mark(&metadata)) {
        None => Ok(()),
        Some(change) => Err(Error::damaged(format!(
            "layer '{}', on which disk '{}' lies, is damaged: it was frozen, and {change}",
            path.display(),
            disk.name
        ))
        .with_hint(Hint::DamagedLayer { vm: layer.vm.to_string() })),
    }
}

/// The files of a chain from `top` down, of the parent's layers too where it is a clone's; not the user's image.
///
/// # Errors
/// `Damaged` where the record has no such chain.
pub(crate) fn paths(folder: &VmFolder, disk: &DiskRecord, top: &LayerId) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    each(folder, disk, top, |folder, disk, layer| {
        paths.push(folder.layer(&disk.name, layer));
        Ok(())
    })?;
    Ok(paths)
}

/// Goes through a chain from `top` down, and through that of the parent where it is a clone's.
pub(crate) fn each(
    folder: &VmFolder,
    disk: &DiskRecord,
    top: &LayerId,
    mut look: impl FnMut(&VmFolder, &DiskRecord, &LayerId) -> Result<()>,
) -> Result<()> {
    let chain = disk.chain(top).ok_or_else(|| {
        Error::damaged(format!("disk '{}' has no record of layer {top}", disk.name))
            .with_hint(Hint::PutFileBack)
    })?;
    chain.iter().try_for_each(|layer| look(folder, disk, layer))?;
    for (parent, disk, layer) in parents(folder, &disk.base) {
        disk.chain(&layer).unwrap_or_default().iter().try_for_each(|layer| look(&parent, &disk, layer))?;
    }
    Ok(())
}

/// Looks at one layer.
///
/// # Errors
/// As [`check_present`].
pub(crate) fn check_layer(folder: &VmFolder, disk: &DiskRecord, layer: &LayerId) -> Result<()> {
    let path = folder.layer(&disk.name, layer);
    if !path.exists() {
        return Err(missing(&path));
    }
    let damaged = |what: String| {
        let vm = folder.name().map(|name| name.to_string()).unwrap_or_default();
        Err(Error::damaged(format!("layer '{}' of disk '{}' is damaged: {what}", path.display(), disk.name))
            .with_hint(Hint::DamagedLayer { vm }))
    };
    let Some(header) = qcow2::read_header(&path)? else {
        return damaged("it is not a qcow2 file".into());
    };
    if let Some(flaw) = header.flaw_of_a_layer() {
        return damaged(format!("its qcow2 header can't be right: {flaw}"));
    }
    let Some(record) = disk.layers.iter().find(|record| record.id == *layer) else { return Ok(()) };
    let expected = backing_of(disk, record);
    if header.backing_file.as_deref() != Some(&*expected) {
        let found = header.backing_file.as_deref().unwrap_or("nothing");
        return damaged(format!(
            "its header says that it lies on '{}', and its record says on '{}'",
            found.escape_debug(),
            expected.escape_debug()
        ));
    }
    match record.frozen {
        Some(frozen) if *layer != disk.active => {
            let found = mark(folder, &disk.name, layer)?;
            frozen.change_to(&found).map_or(Ok(()), |change| damaged(format!("it was frozen, and {change}")))
        }
        _ => Ok(()),
    }
}

/// The backing file that a layer's header names.
pub(crate) fn backing_of(disk: &DiskRecord, layer: &LayerRecord) -> String {
    match (&layer.parent, &disk.base.layer) {
        (Some(parent), _) => format!("{parent}.qcow2"),
        (None, Some(base)) => BaseLayer::relative(base),
        (None, None) => disk.base.location.clone(),
    }
}

/// Fails where the VM's record is older than its snapshots and layers, so that what it says is active is frozen.
///
/// # Errors
/// `Damaged`, naming both.
pub(crate) fn check_not_older(folder: &VmFolder, record: &VmRecord, snapshots: &Snapshots) -> Result<()> {
    let older = |what: String| {
        Err(Error::damaged(format!("'{}' is older than what is there: {what}", folder.record().display()))
            .with_hint(Hint::RepairVm { vm: record.name.to_string() }))
    };
    for disk in &record.disks {
        for manifest in &snapshots.sound {
            let Some(frozen) = manifest.disks.iter().find(|frozen| frozen.name == disk.name) else {
                continue;
            };
            let name = &manifest.name;
            if frozen.layer == disk.active {
                return older(format!(
                    "it would have disk '{}' write into layer {}, which snapshot '{name}' has frozen",
                    disk.name, disk.active
                ));
            }
            // A manifest whose layer is not there either is that snapshot's trouble alone.
            let path = folder.layer(&disk.name, &frozen.layer);
            if disk.chain(&frozen.layer).is_none() && path.exists() {
                return older(format!("it knows nothing of '{}', of snapshot '{name}'", path.display()));
            }
        }
        if let Some(child) = disk.layers.iter().find(|layer| layer.parent.as_ref() == Some(&disk.active)) {
            return older(format!(
                "it would have disk '{}' write into layer {}, on which layer {} lies",
                disk.name, disk.active, child.id
            ));
        }
        // Operations leave no file that the record does not name: a newer record named this one.
        if let Some(unknown) = files(folder, &disk.name).into_iter().find(|id| is_unknown(folder, disk, id)) {
            return older(format!("it knows nothing of '{}'", folder.layer(&disk.name, &unknown).display()));
        }
    }
    Ok(())
}

/// Whether a layer is there, whole, of which the record says nothing.
fn is_unknown(folder: &VmFolder, disk: &DiskRecord, layer: &LayerId) -> bool {
    !disk.layers.iter().any(|record| record.id == *layer)
        && matches!(qcow2::read_header(&folder.layer(&disk.name, layer)), Ok(Some(_)))
}

/// The layers of a disk whose files are there. Files of other names are nobody's.
pub(crate) fn files(folder: &VmFolder, disk: &str) -> Vec<LayerId> {
    let paths = folder.files().list(&folder.disk(disk)).unwrap_or_default();
    let id = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(".qcow2")?.parse().ok();
    let mut layers: Vec<LayerId> = paths.iter().filter_map(id).collect();
    layers.sort();
    layers
}

fn missing(path: &Path) -> Error {
    Error::damaged(format!("layer '{}' is missing", path.display())).with_hint(Hint::PutFileBack)
}

impl FileMark {
    /// How a file differs that had this mark. Archives keep whole seconds only: then the rest of the time says nothing.
    pub(crate) fn change_to(&self, found: &Self) -> Option<String> {
        if found.bytes != self.bytes {
            return Some(format!("it had {} bytes and now has {}", self.bytes, found.bytes));
        }
        let same = found.modified_s == self.modified_s
            && (found.modified_ns == self.modified_ns || found.modified_ns == 0);
        (!same)
            .then(|| format!("it was last written at {}, and now says {}", self.modified(), found.modified()))
    }
}
