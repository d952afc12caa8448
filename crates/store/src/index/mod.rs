//! Finds objects and blocks by hash: a stack of sorted segments over the packs.
//!
//! ```text
//!   hash ──▶ segment, segment, .. ──hint: pack, entry──▶ directory of the pack ──full hash agrees──▶ place
//! ```
//!
//! The index is a cache. A pack that no segment covers gets one when the index is loaded; a lost, stale or damaged
//! segment costs time, never data. Each process has its own view, made when it is loaded and by [`Index::reload`]; what
//! others add later is seen then, and packs that others removed are left out from then on.
//!
//! Whoever stores references to what it finds here, a writer, holds the store's lock shared and has reloaded since it
//! got it: only then the packs that are found cannot go.

mod bad;
mod build;
mod segment;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bad::Bad;
use build::NamedSegment;
use segment::{Segment, SegmentError};

use crate::entry::{Entry, EntryNo, ObjectKind};
use crate::error::StoreError;
use crate::format::segment::{IndexEntry, Table};
use crate::hash::{BlockHash, ObjectHash, PackId};
use crate::pack::{OpenPacks, PackFile};
use crate::shared::{Shared, is_segment, pack_of};

/// Memory for filters in bytes: enough for 27 million blocks.
const FILTER_BYTES: u64 = 32 << 20;
/// Attempts to read a listing that others keep changing.
const LIST_ATTEMPTS: usize = 16;

/// All segments and packs of a store. Loaded at the first look-up.
pub(crate) struct Index {
    shared: Arc<Shared>,
    packs: OpenPacks,
    bad: Bad,
    view: RwLock<Option<Arc<View>>>,
    /// Held while a view is made.
    loading: Mutex<()>,
    /// Set once all segments were made anew by this process.
    was_rebuilt: AtomicBool,
}

/// What was there when it was last looked.
#[derive(Clone, Default)]
struct View {
    packs: HashSet<PackId>,
    segments: Vec<NamedSegment>,
    has_filters: OnceLock<()>,
}

/// Where an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectPlace {
    pub(crate) pack: PackId,
    pub(crate) number: EntryNo,
    pub(crate) entry: Entry,
}

/// Where a block is: which group, and which of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    /// The group; its hash is `group.entry.hash`.
    pub(crate) group: ObjectPlace,
    pub(crate) slot: u8,
}

impl View {
    /// Returns the packs that the segments know of.
    fn covered(&self) -> HashSet<PackId> {
        self.segments.iter().flat_map(|named| named.segment.packs()).copied().collect()
    }

    /// Loads the filters, those of small segments first: each spares one read for a look-up, whatever its size.
    fn load_filters(&self) {
        self.has_filters.get_or_init(|| {
            let mut by_size: Vec<&Segment> = self.segments.iter().map(|named| &*named.segment).collect();
            by_size.sort_by_key(|segment| segment.filter_len());
            let mut total = 0;
            for segment in by_size {
                total += segment.filter_len();
                if total <= FILTER_BYTES {
                    segment.load_filter();
                }
            }
        });
    }
}

impl Index {
    /// Makes an index that is loaded at its first use.
    pub(crate) fn new(shared: Arc<Shared>) -> Index {
        Index {
            packs: OpenPacks::new(Arc::clone(&shared)),
            bad: Bad::default(),
            shared,
            view: RwLock::new(None),
            loading: Mutex::new(()),
            was_rebuilt: AtomicBool::new(false),
        }
    }

    /// Finds an object, of which this copy is not known to be damaged. Found in the directory of a pack that is there; its
    /// bytes are not looked at.
    pub(crate) fn find_object(
        &self,
        hash: &ObjectHash,
        kind: ObjectKind,
    ) -> Result<Option<ObjectPlace>, StoreError> {
        let mut found = None;
        self.each_place(hash, kind, |place, _| {
            found = Some(place).filter(|place| !self.is_bad(place.pack, place.number));
            Ok(found.is_some())
        })?;
        Ok(found)
    }

    /// Calls `visit` with each place of an object and its pack, until it returns true.
    pub(crate) fn each_place(
        &self,
        hash: &ObjectHash,
        kind: ObjectKind,
        mut visit: impl FnMut(ObjectPlace, &PackFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.each_hit(Table::Objects, hash.prefix(), |hit, pack| {
            let number = EntryNo(hit.place);
            match unless_damaged(pack.entry(number))?.flatten() {
                Some(entry) if entry.hash == *hash && entry.kind == kind => {
                    visit(ObjectPlace { pack: pack.id(), number, entry }, pack)
                }
                _ => Ok(false),
            }
        })
    }

    /// Says whether a copy of an object is known to be damaged.
    pub(crate) fn is_bad(&self, pack: PackId, number: EntryNo) -> bool {
        self.bad.has(pack, number)
    }

    /// Returns the copies of objects that are known to be damaged.
    pub(crate) fn bad(&self) -> Vec<(PackId, EntryNo)> {
        self.bad.all()
    }

    /// Makes known, to all processes, that a copy of an object is damaged: nothing refers to it from now on.
    pub(crate) fn mark_bad(&self, pack: PackId, number: EntryNo) {
        self.bad.mark(&*self.shared.storage, pack, number);
    }

    /// Takes back what [`Index::mark_bad`] said.
    pub(crate) fn unmark_bad(&self, pack: PackId, number: EntryNo) {
        self.bad.unmark(&*self.shared.storage, pack, number);
    }

    /// Finds a block by its full hash, in a group that is not known to be damaged.
    ///
    /// Made for writers, who ask for many blocks that are not there: the first call loads the segments' filters.
    pub(crate) fn find_block(&self, hash: &BlockHash) -> Result<Option<BlockPlace>, StoreError> {
        self.view()?.load_filters();
        let mut found = None;
        self.each_hit(Table::Blocks, hash.prefix(), |hit, pack| {
            let (number, slot) = hit.as_block();
            if self.is_bad(pack.id(), number) {
                return Ok(false);
            }
            let Some(entry) = unless_damaged(pack.entry(number))?.flatten() else { return Ok(false) };
            let agrees = unless_damaged(pack.block_hash(&entry, slot))?.flatten() == Some(*hash);
            if agrees {
                found = Some(BlockPlace { group: ObjectPlace { pack: pack.id(), number, entry }, slot });
            }
            Ok(agrees)
        })?;
        Ok(found)
    }

    /// Makes new packs known here, and writes a segment for them, which other processes find; merges small segments.
    ///
    /// The packs' names need to be durable. A failure to write the segment is no failure: it is written later.
    pub(crate) fn add_packs(&self, packs: &[PackId]) -> Result<(), StoreError> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = match self.current() {
            Some(view) => View { has_filters: OnceLock::new(), ..View::clone(&view) },
            // Nothing to be made known: whoever looks first finds the packs.
            None => return self.load().map(drop),
        };
        let covered = view.covered();
        let bare: Vec<PackId> = packs.iter().filter(|id| !covered.contains(id)).copied().collect();
        view.packs.extend(packs);
        view.segments.extend(build::from_packs(&self.shared, &bare)?);
        self.merge(&mut view);
        self.set(view);
        Ok(())
    }

    /// Looks at the storage anew: what other processes added, what they removed.
    pub(crate) fn reload(&self) -> Result<(), StoreError> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.load().map(drop)
    }

    /// Says whether all segments were made anew by this process. Asked before a search, for [`Index::rebuild`].
    pub(crate) fn was_rebuilt(&self) -> bool {
        self.was_rebuilt.load(Ordering::Acquire)
    }

    /// Returns the packs that are there, as last looked, in order.
    pub(crate) fn packs(&self) -> Result<Vec<PackId>, StoreError> {
        let mut packs: Vec<PackId> = self.view()?.packs.iter().copied().collect();
        packs.sort_unstable();
        Ok(packs)
    }

    /// Opens a pack; none when it is not there.
    pub(crate) fn pack(&self, id: PackId) -> Result<Option<Arc<PackFile>>, StoreError> {
        self.packs.get(id)
    }

    /// Calls `visit` with each hint for `prefix` and its pack, until it returns true. Packs that are gone are left out.
    fn each_hit(
        &self,
        table: Table,
        prefix: u64,
        mut visit: impl FnMut(IndexEntry, &PackFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let view = self.view()?;
        for NamedSegment { segment, .. } in &view.segments {
            // A segment that cannot be read is as good as lost.
            for hit in segment.hits(table, prefix).unwrap_or_default() {
                let Some(id) = segment.pack(hit).filter(|id| view.packs.contains(id)) else { continue };
                let Some(pack) = unless_damaged(self.packs.get(id))?.flatten() else { continue };
                if visit(hit, &pack)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn current(&self) -> Option<Arc<View>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, view: View) -> Arc<View> {
        let view = Arc::new(view);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&view));
        view
    }

    /// Returns what was last seen; looks if that was never.
    fn view(&self) -> Result<Arc<View>, StoreError> {
        if let Some(view) = self.current() {
            return Ok(view);
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.current().map_or_else(|| self.load(), Ok)
    }

    /// Looks at the storage; the caller holds `loading`.
    fn load(&self) -> Result<Arc<View>, StoreError> {
        let known = self.current().map(|view| view.segments.clone()).unwrap_or_default();
        let mut view = self.open_listed(&known)?;
        let in_memory = known.into_iter().filter(|segment| segment.name.is_none());
        view.segments.extend(in_memory);
        Ok(self.set(self.cover(view)?))
    }

    /// Lists packs and opens the segments that are not `known`.
    fn open_listed(&self, known: &[NamedSegment]) -> Result<View, StoreError> {
        let mut attempts = 0;
        'again: loop {
            attempts += 1;
            let (packs, names) = self.list()?;
            let mut segments = Vec::with_capacity(names.len());
            for name in names {
                if let Some(known) = known.iter().find(|known| known.name.as_ref() == Some(&name)) {
                    segments.push(known.clone());
                    continue;
                }
                match self.open_segment(&name) {
                    Ok(segment) => {
                        segments.push(NamedSegment { name: Some(name), segment: Arc::new(segment) });
                    }
                    // Merged meanwhile, so there is another one that was not listed.
                    Err(SegmentError::Io(error))
                        if error.kind() == io::ErrorKind::NotFound && attempts < LIST_ATTEMPTS =>
                    {
                        continue 'again;
                    }
                    Err(SegmentError::Io(_) | SegmentError::Flaw(_)) => {}
                }
            }
            return Ok(View { packs, segments, ..View::default() });
        }
    }

    fn open_segment(&self, name: &str) -> Result<Segment, SegmentError> {
        Segment::open(self.shared.storage.open(name)?)
    }

    /// Lists packs and names of segments.
    fn list(&self) -> Result<(HashSet<PackId>, Vec<String>), StoreError> {
        let names = self.shared.storage.list().map_err(|error| self.shared.failed("list", "", error))?;
        self.bad.listed(&names);
        let packs = names.iter().filter_map(|name| pack_of(name)).collect();
        Ok((packs, names.into_iter().filter(|name| is_segment(name)).collect()))
    }
}

/// Takes damage for absence: what a damaged directory says does not count, and what it hides is missed elsewhere.
fn unless_damaged<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}
