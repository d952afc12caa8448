//! Which slot holds which page of a space, while an image is written.
//!
//! 20 bytes for each page, in regions of 2 MiB of the space that are made when their first data page comes: a space that
//! is mostly zero costs little.

use std::ops::Range;

use crate::format::PageEntry;

/// Pages of one region.
const REGION_PAGES: usize = 512;
/// The slot of a page that has none: it is zero.
const NO_SLOT: u32 = u32::MAX;
const ZERO: PageEntry = PageEntry { slot: NO_SLOT, hash: [0; 16] };

/// Most slots in one image.
pub(super) const MAX_SLOTS: u32 = NO_SLOT;

type Region = Box<[PageEntry; REGION_PAGES]>;

/// Data pages of one space.
#[derive(Debug, Default)]
pub(super) struct PageMap {
    regions: Vec<Option<Region>>,
    data_pages: u64,
}

impl PageMap {
    pub(super) fn data_pages(&self) -> u64 {
        self.data_pages
    }

    /// Returns the entry of a data page, or nothing for a zero page.
    pub(super) fn get(&self, page: u64) -> Option<PageEntry> {
        let (region, position) = place(page);
        let entry = self.regions.get(region)?.as_ref()?[position];
        (entry.slot != NO_SLOT).then_some(entry)
    }

    /// Makes `page` a data page.
    pub(super) fn set(&mut self, page: u64, entry: PageEntry) {
        debug_assert!(entry.slot != NO_SLOT, "slots end below MAX_SLOTS");
        let (region, position) = place(page);
        if region >= self.regions.len() {
            self.regions.resize_with(region + 1, || None);
        }
        let region = self.regions[region].get_or_insert_with(|| Box::new([ZERO; REGION_PAGES]));
        let old = std::mem::replace(&mut region[position], entry);
        self.data_pages += u64::from(old.slot == NO_SLOT);
    }

    /// Makes `page` zero; returns the slot it had.
    pub(super) fn clear(&mut self, page: u64) -> Option<u32> {
        let (region, position) = place(page);
        let region = self.regions.get_mut(region)?.as_mut()?;
        let old = std::mem::replace(&mut region[position], ZERO);
        let had_slot = old.slot != NO_SLOT;
        self.data_pages -= u64::from(had_slot);
        had_slot.then_some(old.slot)
    }

    /// Returns the runs of data pages, ascending, each as long as it can be.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut pages = self.pages_with_data().peekable();
        std::iter::from_fn(move || {
            let first = pages.next()?;
            let mut end = first + 1;
            while pages.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(first..end)
        })
    }

    fn pages_with_data(&self) -> impl Iterator<Item = u64> {
        let regions = self.regions.iter().enumerate().filter_map(|(at, region)| Some((at, region.as_ref()?)));
        regions.flat_map(|(at, region)| {
            let first = (at * REGION_PAGES) as u64;
            (first..).zip(region.iter()).filter(|(_, entry)| entry.slot != NO_SLOT).map(|(page, _)| page)
        })
    }
}

/// Returns the region of a page, and its position there.
fn place(page: u64) -> (usize, usize) {
    // Pages are below 2^31: a space has at most 2^43 bytes.
    let page = usize::try_from(page).unwrap_or(usize::MAX);
    (page / REGION_PAGES, page % REGION_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Runs become the extents on disk, where touching ones are refused: they must join across regions.
    #[test]
    fn runs_are_maximal_across_regions() {
        let mut map = PageMap::default();
        for page in [0, 511, 512, 513, 2000] {
            map.set(page, PageEntry { slot: 1, hash: [1; 16] });
        }
        assert_eq!(map.runs().collect::<Vec<_>>(), [0..1, 511..514, 2000..2001]);
        assert_eq!(map.clear(512), Some(1));
        assert_eq!(map.clear(512), None);
        assert_eq!(map.clear(1 << 30), None);
        assert_eq!(map.runs().collect::<Vec<_>>(), [0..1, 511..512, 513..514, 2000..2001]);
        assert_eq!(map.data_pages(), 4);
    }
}
