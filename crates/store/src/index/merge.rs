//! Keeps the stack of segments low: small ones are merged, damaged ones dropped. What fails is done another time.

use std::sync::Arc;

use super::build::{self, NamedSegment};
use super::segment::SegmentError;
use super::{Index, View};

/// Up to this many segments nothing is merged: a merge takes time at the end of somebody's capture.
const FEW_SEGMENTS: usize = 6;
/// Beyond, they are merged until each is this many times larger than all smaller ones together.
const TIER_FACTOR: u64 = 4;

impl Index {
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
    pub(super) fn merge_first(&self, view: &mut View, count: usize) {
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
