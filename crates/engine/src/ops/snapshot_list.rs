//! Shows snapshots.

use crate::engine::{Operation, Seen};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Address, VmName};
use crate::layers::clones::{CloneOf, clones_of};
use crate::record::snapshot::{Manifest, Origin};
use crate::view::{DamagedSnapshot, SnapshotView};

/// Snapshots of one VM or of several.
#[derive(Debug, Default)]
pub struct SnapshotListing {
    /// Those that can be read, VM by VM, oldest first.
    pub items: Vec<SnapshotView>,
    /// Those whose manifests can't be.
    pub damaged: Vec<DamagedSnapshot>,
    /// One error for each VM that could not be read at all.
    pub unreadable: Vec<Error>,
}

impl Operation {
    /// The snapshots of one VM, or of all, oldest first; with `undo` also those that restores made.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` where one VM is asked for. Of all VMs, one that can't be read does not hide the others; neither
    /// does a snapshot that can't.
    pub fn snapshot_list(&self, vm: Option<&VmName>, undo: bool) -> Result<SnapshotListing> {
        let names = match vm {
            Some(name) => vec![name.clone()],
            None => self.root.vm_names()?,
        };
        let mut listing = SnapshotListing::default();
        let mut images = Vec::new();
        for name in names {
            let seen = match self.look(&name) {
                Err(error) if vm.is_none() && error.kind() == ErrorKind::NotFound => continue,
                Err(error) if vm.is_none() => {
                    listing.unreadable.push(error);
                    continue;
                }
                seen => seen?,
            };
            list(&mut listing, &mut images, &seen, undo);
        }
        self.add_usage(listing.items.iter_mut().zip(images.iter().map(String::as_str)));
        Ok(listing)
    }

    /// One snapshot, with what its memory takes in the store.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn snapshot_show(&self, address: &Address) -> Result<SnapshotView> {
        let seen = self.look(&address.vm)?;
        let manifest = seen.snapshots.by_name(&seen.record, &address.snapshot)?;
        let mut view = SnapshotView::of(&seen.folder, &seen.record, &seen.snapshots, manifest);
        self.add_usage([(&mut view, image_of(manifest).as_str())].into_iter());
        Ok(with_clones(view, &clones(&seen)))
    }
}

/// Adds the snapshots of one VM.
fn list(listing: &mut SnapshotListing, images: &mut Vec<String>, seen: &Seen, undo: bool) {
    let clones = clones(seen);
    for snapshot in &seen.snapshots.sound {
        if undo || snapshot.origin == Origin::User {
            let view = SnapshotView::of(&seen.folder, &seen.record, &seen.snapshots, snapshot);
            listing.items.push(with_clones(view, &clones));
            images.push(image_of(snapshot));
        }
    }
    let damaged = seen.snapshots.damaged.iter();
    listing.damaged.extend(damaged.map(|manifest| DamagedSnapshot::of(&seen.record, manifest)));
}

/// The VM's clones, as far as the other VMs of the root can be read: nothing is decided by a list.
fn clones(seen: &Seen) -> Vec<CloneOf> {
    clones_of(&seen.folder, &seen.record.id).unwrap_or_default()
}

/// The memory image of a snapshot; empty where it has no memory.
fn image_of(snapshot: &Manifest) -> String {
    snapshot.memory.as_ref().map(|memory| memory.image.clone()).unwrap_or_default()
}

/// Names the VMs that were cloned from a snapshot.
fn with_clones(mut view: SnapshotView, clones: &[CloneOf]) -> SnapshotView {
    let is_of = |clone: &&CloneOf| clone.snapshot.as_ref().is_some_and(|id| id.as_str() == view.id);
    view.clones = clones.iter().filter(is_of).map(|clone| clone.name.clone()).collect();
    view
}
