//! Keeps the segments in order: packs that none covers get one, small ones are merged, damaged and stale ones go.
//!
//! All of it can fail, and be interrupted, without harm: a segment too few costs the reading of directories, one too many a
//! read for each look-up. So a new segment is there before those that it replaces go, and what could not be done is done the
//! next time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::build::{self, NamedSegment};
use super::segment::SegmentError;
use super::{Index, View, unless_damaged};
use crate::error::StoreError;
use crate::format::Flaw;
use crate::hash::PackId;
use crate::pack::PackFile;

/// Entries of packs that are put into one new segment, about: 32 MiB of memory.
const BUILD_ENTRIES: u64 = 2 << 20;
/// Up to this many segments nothing is merged: a merge takes time at the end of somebody's capture.
const FEW_SEGMENTS: usize = 6;
/// Beyond, they are merged until each is this many times larger than all smaller ones together.
const TIER_FACTOR: u64 = 4;

impl Index {
    /// Makes all segments anew from the packs, once in the life of this process. Says whether to look again: they were
    /// made anew since the search began, here or by another thread. A failure can be tried again.
    pub(crate) fn rebuild(&self, was_rebuilt: bool) -> Result<bool, StoreError> {
        if was_rebuilt {
            return Ok(false);
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.was_rebuilt() {
            return Ok(true);
        }
        let (packs, old) = self.list()?;
        let view = self.cover(View { packs, ..View::default() })?;
        let is_kept = |name: &String| view.segments.iter().any(|kept| kept.name.as_ref() == Some(name));
        for name in old.iter().filter(|name| !is_kept(name)) {
            // What cannot be removed costs look-ups, no more.
            let _ = self.shared.storage.remove(name);
        }
        self.set(view);
        self.was_rebuilt.store(true, Ordering::Release);
        Ok(true)
    }

    /// Drops segments that cannot be used, and writes those anew that mostly speak of packs that are gone.
    pub(crate) fn tidy(&self) -> Result<(), StoreError> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, names) = self.list()?;
        for name in names {
            // One of a newer version is left to the program that reads it.
            if let Err(SegmentError::Flaw(Flaw::Damaged(..))) = self.open_segment(&name) {
                let _ = self.shared.storage.remove(&name);
            }
        }
        let mut view = View::clone(&*self.load()?);
        let is_gone = |id: &PackId| !view.packs.contains(id);
        let is_stale = |named: &NamedSegment| {
            let packs = named.segment.packs();
            packs.iter().filter(|id| is_gone(id)).count() * 2 > packs.len()
        };
        // The stale ones first: those are merged, even if there is one only.
        view.segments.sort_by_cached_key(|named| !is_stale(named));
        let stale = view.segments.iter().take_while(|named| is_stale(named)).count();
        if stale > 0 {
            self.merge_first(&mut view, stale);
            self.set(view);
        }
        Ok(())
    }

    /// Makes segments for the packs that none covers.
    pub(super) fn cover(&self, mut view: View) -> Result<View, StoreError> {
        let mut bare: Vec<PackId> = view.packs.difference(&view.covered()).copied().collect();
        bare.sort_unstable();
        let mut chunk = Vec::new();
        let mut entries = 0;
        for id in bare {
            let Some(pack) = unless_damaged(PackFile::open(&self.shared, id))?.flatten() else { continue };
            chunk.push(id);
            entries += pack.hints();
            if entries >= BUILD_ENTRIES {
                view.segments.extend(build::from_packs(&self.shared, &chunk)?);
                chunk.clear();
                entries = 0;
            }
        }
        if !chunk.is_empty() {
            view.segments.extend(build::from_packs(&self.shared, &chunk)?);
        }
        self.merge(&mut view);
        Ok(view)
    }

    /// Merges small segments into one where there are too many of them. What fails is done another time.
    pub(super) fn merge(&self, view: &mut View) {
        view.segments.sort_by_key(|named| named.segment.len());
        let sizes: Vec<u64> = view.segments.iter().map(|named| named.segment.len()).collect();
        let count = segments_to_merge(&sizes);
        if count >= 2 {
            self.merge_first(view, count);
        }
    }

    /// Merges the first `count` segments into one. What fails is done another time.
    fn merge_first(&self, view: &mut View, count: usize) {
        if self.drop_damaged(view, count) {
            return;
        }
        let inputs = &view.segments[..count];
        let merged = build::merge(&self.shared, inputs, |id| view.packs.contains(id));
        let Ok(Some(merged)) = merged else { return };
        for name in inputs.iter().filter_map(|input| input.name.as_ref()) {
            if merged.name.as_ref() != Some(name) {
                let _ = self.shared.storage.remove(name);
            }
        }
        view.segments.splice(..count, [merged]);
    }

    /// Removes those of the first `count` segments whose entries are damaged: their packs get new ones when the index is
    /// next loaded. Says whether there were any.
    fn drop_damaged(&self, view: &mut View, count: usize) -> bool {
        let is_damaged =
            |named: &NamedSegment| matches!(named.segment.verify_entries(), Err(SegmentError::Flaw(_)));
        let damaged: Vec<NamedSegment> =
            view.segments.iter().take(count).filter(|named| is_damaged(named)).cloned().collect();
        for name in damaged.iter().filter_map(|named| named.name.as_ref()) {
            let _ = self.shared.storage.remove(name);
        }
        view.segments.retain(|kept| !damaged.iter().any(|gone| Arc::ptr_eq(&gone.segment, &kept.segment)));
        !damaged.is_empty()
    }
}

/// Says how many of the smallest segments are to be merged, given all sizes ascending.
pub(super) fn segments_to_merge(sizes: &[u64]) -> usize {
    if sizes.len() <= FEW_SEGMENTS {
        return 0;
    }
    let mut total = 0;
    let mut count = 0;
    for (at, &size) in sizes.iter().enumerate() {
        if at > 0 && size <= total * TIER_FACTOR {
            count = at + 1;
        }
        total += size;
    }
    count
}
