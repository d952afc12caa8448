//! Shows, renames and verifies snapshots.

use crate::capture::receive::store_error;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Address, SnapshotName, VmName};
use crate::journaled::image_id;
use crate::layers::base;
use crate::layers::image_tool::check_layer;
use crate::record::journal::RedoPlan;
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
            let views = shown.map(|snapshot| SnapshotView::of(&seen.record, &seen.snapshots, snapshot));
            listing.items.extend(views);
        }
        Ok(listing)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn snapshot_show(&self, address: &Address) -> Result<SnapshotView> {
        let seen = self.look(&address.vm)?;
        let manifest = seen.snapshots.by_name(&seen.record, &address.snapshot)?;
        Ok(SnapshotView::of(&seen.record, &seen.snapshots, manifest))
    }

    /// Gives a snapshot another name.
    ///
    /// # Errors
    /// `NotFound`, `Busy`; `Refused` where the name is taken.
    pub fn snapshot_rename(&self, address: &Address, name: &SnapshotName) -> Result<SnapshotView> {
        let held = self.hold(&address.vm)?;
        let mut manifest = held.snapshots.by_name(&held.record, &address.snapshot)?.clone();
        if held.snapshots.0.iter().any(|other| other.name == *name && other.id != manifest.id) {
            return Err(Error::refused(format!("VM '{}' has a snapshot '{name}' already", address.vm))
                .hint("choose another name"));
        }
        manifest.name = name.clone();
        // A snapshot that got a name of the user's is the user's.
        manifest.origin = Origin::User;
        let plan = RedoPlan { write: vec![manifest], ..RedoPlan::of(held.record.clone()) };
        self.ledger(&held.folder).commit("snapshot rename", plan)?;
        drop(held);
        self.snapshot_show(&Address { vm: address.vm.clone(), snapshot: name.clone() })
    }

    /// Reads all of a snapshot: every byte of its memory image, the structure of each of its layers, its bases' marks.
    ///
    /// # Errors
    /// `Damaged`, naming what is; `NotFound`.
    pub fn snapshot_verify(&self, address: &Address) -> Result<SnapshotView> {
        let seen = self.look(&address.vm)?;
        let manifest = seen.snapshots.by_name(&seen.record, &address.snapshot)?;
        for frozen in &manifest.disks {
            let disk = seen.record.disk(&frozen.name);
            let chain = disk.and_then(|disk| disk.chain(&frozen.layer)).ok_or_else(|| {
                Error::damaged(format!("disk '{}' of {address} has no record of its layers", frozen.name))
            })?;
            for layer in chain {
                let path = seen.folder.layer(&frozen.name, &layer);
                check_layer(&path)
                    .map_err(|error| error.while_doing(format!("{address} can't be verified")))?;
                self.check_cancel("verifying layers")?;
            }
            if let Some(disk) = disk {
                base::check_unchanged(&disk.name, &disk.base)
                    .map_err(|error| error.with_kind(ErrorKind::Damaged))?;
            }
        }
        if let Some(memory) = &manifest.memory {
            let opened = self.store.open_image(&image_id(&memory.image)?);
            let reader = opened
                .map_err(|error| store_error(&format!("the memory image of {address} is damaged"), error))?;
            let verified = self.verify_image(&reader);
            self.host.progress.finished();
            verified.map_err(|error| error.while_doing(format!("{address} is damaged")))?;
        }
        Ok(SnapshotView::of(&seen.record, &seen.snapshots, manifest))
    }
}
