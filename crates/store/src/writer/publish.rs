//! The last steps of an image: its file under its final name, and its packs in the index.

use std::sync::Arc;

use super::groups::Groups;
use super::packs::SealedPacks;
use super::seen::Seen;
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::objects::Objects;
use crate::shared::{Latch, image_name};
use crate::storage::StorageFile;

/// The file of an image that is not complete; removed when dropped, unless it has got its final name.
pub(super) struct PartFile {
    latch: Arc<Latch>,
    name: String,
    file: Box<dyn StorageFile>,
    is_kept: bool,
}

impl PartFile {
    pub(super) fn new(latch: Arc<Latch>, name: String, file: Box<dyn StorageFile>) -> PartFile {
        PartFile { latch, name, file, is_kept: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is found by the next sweep.
            let _ = self.latch.storage().remove(&self.name);
        }
    }
}

/// Gives packs and image their final names, durably: the packs first, so that an image never lacks one.
pub(super) fn image(
    latch: &Latch,
    part: &mut PartFile,
    file: &mut ImageFile,
    packs: &mut SealedPacks,
) -> Result<(), StoreError> {
    packs.publish()?;
    // Also where this image has no pack of its own: those that it refers to can have been found between their naming and
    // their syncing, by a writer that is at work or that died there.
    latch.sync_names(&part.name)?;
    file.stored_bytes = packs.stored_bytes + u64::from(file.encoded_len());
    let failed = |op, error| latch.write_failed(op, &part.name, error);
    part.file.write_at(0, &file.encode()).map_err(|error| failed("write", error))?;
    part.file.sync().map_err(|error| failed("sync", error))?;
    // The last moment at which nothing has been promised.
    latch.check()?;
    let name = image_name(&file.id);
    latch.storage().rename(&part.name, &name).map_err(|error| failed("rename", error))?;
    latch.sync_names(&name).inspect_err(|_| {
        // The caller is told that there is no image, so there should be none.
        let _ = latch.storage().remove(&name);
    })?;
    part.is_kept = true;
    Ok(())
}

/// Makes the packs of a complete image known to the index.
pub(super) fn index(objects: &Objects, packs: &SealedPacks) {
    if !packs.unindexed.is_empty() {
        // The index is a cache: what is missing in it is found and added the next time it is loaded.
        let _ = objects.index().add_packs(&packs.unindexed);
    }
}

/// Moves what was stored for a large image from memory to the index, while it is written.
pub(super) struct Indexer {
    pub(super) latch: Arc<Latch>,
    pub(super) objects: Arc<Objects>,
    pub(super) groups: Arc<Groups>,
    pub(super) seen: Arc<Seen>,
    /// Blocks in memory after which those of complete packs go to the index.
    pub(super) max_seen: usize,
}

impl Indexer {
    /// Is given all packs so far, whenever one is complete.
    pub(super) fn sealed(&self, packs: &mut SealedPacks) -> Result<(), StoreError> {
        if self.seen.len() < self.max_seen {
            return Ok(());
        }
        packs.publish()?;
        self.latch.sync_names("packs")?;
        self.objects.index().add_packs(&packs.unindexed)?;
        packs.unindexed.clear();
        self.seen.forget(&self.groups.in_packs(&packs.published));
        Ok(())
    }
}
