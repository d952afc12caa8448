//! Shows snapshots.

use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::ids::{Address, VmName};
use crate::layers::clones::{CloneOf, clones_of};
use crate::record::snapshot::Origin;
use crate::view::{Listing, SnapshotView};

impl Engine {
    /// The snapshots of one VM, or of all, oldest first; with `undo` also those that restores made.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` where one VM is asked for. Of all VMs, one that can't be read does not hide the others.
    pub fn snapshot_list(&self, vm: Option<&VmName>, undo: bool) -> Result<Listing<SnapshotView>> {
        let names = match vm {
            Some(name) => vec![name.clone()],
            None => self.root.vm_names()?,
        };
        let mut listing = Listing::default();
        for name in names {
            let seen = match self.look(&name) {
                Err(error) if vm.is_none() && error.kind() == ErrorKind::NotFound => continue,
                Err(error) if vm.is_none() => {
                    listing.unreadable.push(error);
                    continue;
                }
                seen => seen?,
            };
            let shown = seen.snapshots.0.iter().filter(|snapshot| undo || snapshot.origin == Origin::User);
            let views =
                shown.map(|snapshot| SnapshotView::of(&seen.folder, &seen.record, &seen.snapshots, snapshot));
            let clones = clones_of(&seen.folder, &seen.record.id)?;
            listing.items.extend(views.map(|view| with_clones(view, &clones)));
        }
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
        if let (Some(memory), Some(stored)) = (&mut view.memory, &manifest.memory) {
            let usage = self.image_usage(&stored.image)?;
            memory.exclusive_bytes = Some(usage.exclusive_bytes);
            memory.shared_bytes = Some(usage.shared_bytes);
        }
        Ok(with_clones(view, &clones_of(&seen.folder, &seen.record.id)?))
    }
}

/// Names the VMs that were cloned from a snapshot.
fn with_clones(mut view: SnapshotView, clones: &[CloneOf]) -> SnapshotView {
    let is_of = |clone: &&CloneOf| clone.snapshot.as_ref().is_some_and(|id| id.as_str() == view.id);
    view.clones = clones.iter().filter(is_of).map(|clone| clone.name.clone()).collect();
    view
}
