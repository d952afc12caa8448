//! Open packs, of which the ones used lately stay open.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::PackFile;
use crate::StoreError;
use crate::hash::PackId;
use crate::store::Shared;

/// Packs that are kept open.
const OPEN_PACKS: usize = 128;

/// Opens packs and keeps a bounded number of them open.
pub(crate) struct OpenPacks {
    shared: Arc<Shared>,
    open: Cache<PackId, Arc<PackFile>>,
}

impl OpenPacks {
    pub(crate) fn new(shared: Arc<Shared>) -> OpenPacks {
        OpenPacks { shared, open: Cache::new(OPEN_PACKS) }
    }

    /// Returns a pack; none when it is not there. One that is open can be read on after it was removed.
    pub(crate) fn get(&self, id: PackId) -> Result<Option<Arc<PackFile>>, StoreError> {
        if let Some(pack) = self.open.get(&id) {
            return Ok(Some(pack));
        }
        let Some(pack) = PackFile::open(&self.shared, id)? else { return Ok(None) };
        let pack = Arc::new(pack);
        self.open.insert(id, Arc::clone(&pack));
        Ok(Some(pack))
    }
}
