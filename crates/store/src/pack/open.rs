//! Open packs, of which the ones used lately stay open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quick_cache::sync::Cache;

use super::PackFile;
use crate::error::StoreError;
use crate::hash::PackId;
use crate::shared::Shared;

/// Packs that are kept open.
const OPEN_PACKS: usize = 128;

/// Opens packs and keeps a bounded number of them open.
pub(crate) struct OpenPacks {
    shared: Arc<Shared>,
    open: Cache<PackId, Arc<PackFile>>,
    /// Whether the directories are sound, of packs that were closed meanwhile too: finding out takes a read of all of it.
    sound: Mutex<HashMap<PackId, Arc<OnceLock<bool>>>>,
}

impl OpenPacks {
    pub(crate) fn new(shared: Arc<Shared>) -> OpenPacks {
        OpenPacks { shared, open: Cache::new(OPEN_PACKS), sound: Mutex::default() }
    }

    /// Returns a pack; none when it is not there. One that is open can be read on after it was removed.
    pub(crate) fn get(&self, id: PackId) -> Result<Option<Arc<PackFile>>, StoreError> {
        if let Some(pack) = self.open.get(&id) {
            return Ok(Some(pack));
        }
        let Some(mut pack) = PackFile::open(&self.shared, id)? else { return Ok(None) };
        let mut sound = self.sound.lock().unwrap_or_else(PoisonError::into_inner);
        pack.share_soundness(sound.entry(id).or_default());
        drop(sound);
        let pack = Arc::new(pack);
        self.open.insert(id, Arc::clone(&pack));
        Ok(Some(pack))
    }
}
