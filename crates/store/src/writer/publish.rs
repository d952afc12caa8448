//! The last steps of an image: its file under its final name, and its packs in the index.

use std::sync::Arc;

use super::groups::Groups;
use super::packs::Sealed;
use super::seen::Seen;
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::objects::Objects;
use crate::shared::{Shared, image_name};
use crate::storage::StorageFile;

/// The file of an image that is not complete; removed when dropped, unless it has got its final name.
pub(super) struct PartFile {
    shared: Arc<Shared>,
    name: String,
    file: Box<dyn StorageFile>,
    is_kept: bool,
}

impl PartFile {
    pub(super) fn new(shared: Arc<Shared>, name: String, file: Box<dyn StorageFile>) -> PartFile {
        PartFile { shared, name, file, is_kept: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is found by the next sweep.
            let _ = self.shared.storage.remove(&self.name);
        }
    }
}

/// Gives packs and image their final names, durably: the packs first, so that an image never lacks one.
pub(super) fn image(
    shared: &Shared,
    part: &mut PartFile,
    file: &mut ImageFile,
    packs: &mut Sealed,
) -> Result<(), StoreError> {
    let Shared { storage, .. } = shared;
    let sync_dir = |name: &str| {
        storage.sync_dir().map_err(|error| shared.write_failed("sync the folder of", name, error))
    };
    packs.publish()?;
    if !packs.published.is_empty() {
        sync_dir(&part.name)?;
    }
    file.stored_bytes = packs.stored_bytes + u64::from(file.encoded_len());
    let failed = |op, error| shared.write_failed(op, &part.name, error);
    part.file.write_at(0, &file.encode()).map_err(|error| failed("write", error))?;
    part.file.sync().map_err(|error| failed("sync", error))?;
    // Of a failed sync of the folder the system tells one caller only: another writer's failure counts here too.
    let is_open = || if shared.is_latched() { Err(StoreError::Latched) } else { Ok(()) };
    is_open()?;
    let name = image_name(&file.id);
    storage.rename(&part.name, &name).map_err(|error| failed("rename", error))?;
    sync_dir(&name).and_then(|()| is_open()).inspect_err(|_| {
        // The caller is told that there is no image, so there should be none.
        let _ = storage.remove(&name);
    })?;
    part.is_kept = true;
    Ok(())
}

/// Makes the packs of a complete image known to the index.
pub(super) fn index(objects: &Objects, packs: &Sealed) {
    if !packs.unindexed.is_empty() {
        // The index is a cache: what is missing in it is found and added the next time it is loaded.
        let _ = objects.index().add_packs(&packs.unindexed);
    }
}

/// Moves what was stored for a large image from memory to the index, while it is written.
pub(super) struct Indexer {
    pub(super) shared: Arc<Shared>,
    pub(super) objects: Arc<Objects>,
    pub(super) groups: Arc<Groups>,
    pub(super) seen: Arc<Seen>,
    /// Blocks in memory after which those of complete packs go to the index.
    pub(super) max_seen: usize,
}

impl Indexer {
    /// Is given all packs so far, whenever one is complete.
    pub(super) fn sealed(&self, packs: &mut Sealed) -> Result<(), StoreError> {
        if self.seen.len() < self.max_seen {
            return Ok(());
        }
        packs.publish()?;
        let Shared { storage, .. } = &*self.shared;
        storage.sync_dir().map_err(|error| self.shared.write_failed("sync the folder of", "packs", error))?;
        self.objects.index().add_packs(&packs.unindexed)?;
        packs.unindexed.clear();
        self.seen.forget(&self.groups.in_packs(&packs.published));
        Ok(())
    }
}
