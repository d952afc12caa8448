//! Folds a delta back into its parent, so that a disk is as it was before the delta was made.
//!
//! Used to undo a capture: until it is committed no snapshot names the parent, so writing it is allowed. A base is
//! never folded into. Both ways can be interrupted at any point and done again: until the delta is gone, every
//! cluster is read from it first.

use std::path::Path;

use vmrewind_qemu::qmp::commands::BlockNode;

use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::layers::image_tool::qemu_img;
use crate::layers::qcow2;
use crate::monitor::Monitor;
use crate::record::journal::Overlay;
use crate::root::VmFolder;
use crate::root::file::remove_file;

/// Folds `overlay` of a running VM; it may be on top, opened only, or not there at all.
pub(crate) fn fold_live(monitor: &Monitor, folder: &VmFolder, overlay: &Overlay) -> Result<()> {
    let parent = parent_of(overlay)?;
    let name = overlay.layer.node_name();
    let nodes = monitor.nodes()?;
    let named = |name: &str| nodes.iter().find(|node| node.node_name.as_deref() == Some(name));
    if let Some(node) = named(&name) {
        // A node that is opened but on top of nothing has no backing file yet.
        if node.backing_file.is_some() {
            let parent_name = parent.node_name();
            let path = folder.layer(&overlay.disk, parent);
            let below = named(&parent_name).or_else(|| nodes.iter().find(|node| is_layer(node, &path)));
            let below = below.and_then(|node| node.node_name.as_deref()).ok_or_else(|| {
                Error::failed(format!("QEMU does not have layer {parent} of disk '{}' open", overlay.disk))
            })?;
            monitor.commit_top(&name, below)?;
        }
        monitor.remove_node(&name)?;
    }
    remove_file(&folder.layer(&overlay.disk, &overlay.layer)).map(drop)
}

/// Whether a node is the qcow2 format node of the layer at `path`.
fn is_layer(node: &BlockNode, path: &Path) -> bool {
    let same =
        |a: &Path, b: &Path| a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    node.drv == "qcow2" && same(Path::new(&node.file), path)
}

/// Folds `overlay` of a VM that does not run.
pub(crate) fn fold_stopped(folder: &VmFolder, overlay: &Overlay) -> Result<()> {
    parent_of(overlay)?;
    let path = folder.layer(&overlay.disk, &overlay.layer);
    if !path.exists() {
        return Ok(());
    }
    // A file that is not qcow2 yet was cut off while it was made: nothing can have been written through it.
    let written = matches!(qcow2::read_header(&path), Ok(Some(_))) && !qcow2::is_empty(&path)?;
    if written {
        let doing =
            format!("cannot merge layer {} of disk '{}' into the one below", overlay.layer, overlay.disk);
        let arguments = ["commit", "-q", "-d", "-f", "qcow2"].map(std::ffi::OsString::from);
        let arguments = [&arguments[..], &[path.clone().into_os_string()]].concat();
        qemu_img(&doing, &arguments)?;
    }
    remove_file(&path).map(drop)
}

/// What the overlay is folded into: a delta of ours.
fn parent_of(overlay: &Overlay) -> Result<&LayerId> {
    overlay.parent.as_ref().ok_or_else(|| {
        Error::failed(format!(
            "layer {} of disk '{}' lies on the base, which is never written",
            overlay.layer, overlay.disk
        ))
    })
}
