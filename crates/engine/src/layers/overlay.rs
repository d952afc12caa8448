//! Makes deltas.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use crate::error::Result;
use crate::layers::image_tool::qemu_img;
use crate::record::journal::Overlay;
use crate::record::vm::DiskRecord;
use crate::root::VmFolder;
use crate::root::file::{io_error, make_dir, remove_file, sync_dir};

/// Makes the file of a delta of `disk`, empty and durable when it returns.
///
/// The parent is not opened (a running QEMU may hold it): the header names it, relative to the delta's folder for a
/// layer of ours, so that a root can be moved, and as recorded for the base.
pub(crate) fn make(folder: &VmFolder, disk: &DiskRecord, overlay: &Overlay) -> Result<()> {
    let directory = folder.disk(&disk.name);
    make_dir(&directory)?;
    let path = folder.layer(&disk.name, &overlay.layer);
    let (backing, format) = match &overlay.parent {
        Some(parent) => (format!("{parent}.qcow2"), "qcow2"),
        None => (disk.base.location.clone(), disk.base.format.as_str()),
    };
    let size = disk.base.virtual_bytes.to_string();
    let doing = format!("cannot make a new layer for disk '{}'", disk.name);
    let words = ["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", &backing];
    let mut arguments: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    arguments.extend([path.as_os_str(), OsStr::new(&size)]);
    qemu_img(&doing, &arguments).inspect_err(|_| {
        let _ = remove_file(&path);
    })?;
    sync_file(&path)?;
    sync_dir(&directory)
}

fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error(&format!("cannot sync '{}'", path.display()), error))
}
