//! Reads all of a snapshot, to find damage before it is needed.

use crate::engine::Operation;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Address;
use crate::images::{image_id, store_error};
use crate::layers::image_tool::check_layer;
use crate::layers::{base, frozen};
use crate::view::SnapshotView;

impl Operation {
    /// Reads all of a snapshot: every byte of its memory image, the structure and the mark of each of its layers, its
    /// bases' marks.
    ///
    /// # Errors
    /// `Damaged`, naming what is; `NotFound`.
    pub fn snapshot_verify(&self, address: &Address) -> Result<SnapshotView> {
        let seen = self.look(&address.vm)?;
        let manifest = seen.snapshots.by_name(&seen.record, &address.snapshot)?;
        for disk_then in &manifest.disks {
            let disk = seen.record.disk(&disk_then.name);
            let disk = disk.ok_or_else(|| {
                Error::damaged(format!("disk '{}' of {address} has no record of its layers", disk_then.name))
            })?;
            let doing = |error: Error| error.while_doing(format!("{address} can't be verified"));
            frozen::check_chain(&seen.folder, disk, &disk_then.layer).map_err(doing)?;
            for path in frozen::paths(&seen.folder, disk, &disk_then.layer)? {
                check_layer(&path).map_err(doing)?;
                self.check_cancel("verifying layers")?;
            }
            base::check_unchanged(&disk.name, &disk.base)
                .map_err(|error| error.with_kind(ErrorKind::Damaged))?;
        }
        if let Some(memory) = &manifest.memory {
            let opened = self.store.open_image(&image_id(&memory.image)?);
            let reader = opened
                .map_err(|error| store_error(&format!("the memory image of {address} is damaged"), error))?;
            let verified = self.verify_image(&reader);
            self.ctx.work_ended();
            verified.map_err(|error| error.while_doing(format!("{address} is damaged")))?;
        }
        Ok(SnapshotView::of(&seen.folder, &seen.record, &seen.snapshots, manifest))
    }
}
