//! Makes deltas.

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::layers::delta_file::{self, Backing};
use crate::layers::frozen::backing_of;
use crate::layers::qcow2;
use crate::record::journal::Overlay;
use crate::record::vm::{DiskRecord, LayerRecord};
use crate::root::VmFolder;

/// What new layers and the VM's records take at most, for any common number and size of disks.
const ROOM_BYTES: u64 = 2 << 20;

/// Makes the file of a delta of `disk`, empty and durable when it returns.
///
/// The parent is not opened (a running QEMU may hold it): the header names it, relative to the delta's folder for a
/// layer of ours, so that a root can be moved, and as recorded for the base.
pub(crate) fn make(folder: &VmFolder, disk: &DiskRecord, overlay: &Overlay) -> Result<()> {
    let directory = folder.disk(&disk.name);
    folder.files().make_dir(&directory)?;
    let path = folder.layer(&disk.name, &overlay.layer);
    let format = if overlay.parent.is_some() { "qcow2" } else { disk.base.format.as_str() };
    let record = LayerRecord { id: overlay.layer.clone(), parent: overlay.parent.clone(), frozen: None };
    let backing = backing_of(disk, &record);
    let virtual_bytes = virtual_bytes(folder, disk, overlay)?;
    delta_file::write(folder.files(), &path, &Backing { file: &backing, format, virtual_bytes })
        .inspect_err(|_| {
            let _ = folder.files().remove_file(&path);
        })
        .map_err(|error| error.while_doing(format!("cannot make a new layer for disk '{}'", disk.name)))?;
    folder.files().sync_dir(&directory)
}

/// Fails where there is no room for new layers: before a running guest is given up for them.
pub(crate) fn check_room(folder: &VmFolder) -> Result<()> {
    match folder.files().free_bytes(folder.path()) {
        Some(free) if free < ROOM_BYTES => Err(Error::failed(format!(
            "not enough space for new layers: {} KiB are needed, {} KiB are free",
            ROOM_BYTES >> 10,
            free >> 10
        ))
        .with_hint(Hint::FreeSpaceOfRoot)),
        _ => Ok(()),
    }
}

/// The size that the guest sees: the parent's own, since a disk can have been grown after it was taken over.
fn virtual_bytes(folder: &VmFolder, disk: &DiskRecord, overlay: &Overlay) -> Result<u64> {
    let Some(parent) = &overlay.parent else { return Ok(disk.base.virtual_bytes) };
    let path = folder.layer(&disk.name, parent);
    let header = qcow2::read_header(&path)?;
    header.map(|header| header.virtual_bytes).ok_or_else(|| {
        Error::damaged(format!("layer '{}' of disk '{}' is not a qcow2 file", path.display(), disk.name))
    })
}
