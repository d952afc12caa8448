//! The working set of a snapshot: the pages that its guest touches first after a restore, in their order.
//!
//! A file of its own beside the manifest, `ID.working-set`. It is a guess that makes restores faster: it is bounded,
//! each restore improves it, and one that is damaged counts as none. Whatever it says, each page's content comes from the
//! image.

use std::collections::HashSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use vmrewind_qemu::postcopy::{FirstPages, PageAddress};
use vmrewind_qemu::stream::{PAGE_SIZE, RamBlock};

use crate::error::Result;
use crate::ids::SnapshotId;
use crate::record::RECORD_VERSION;
use crate::root::VmFolder;

/// Most pages in a working set: 64 MiB, which are on their way in a tenth of a second.
const MAX_PAGES: usize = 16 << 10;
/// A file longer than this is no working set.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The pages that are sent first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkingSet {
    version: u32,
    /// How many restores it was learnt from.
    restores: u32,
    /// The names of the RAM blocks.
    blocks: Vec<String>,
    /// Runs of pages, in the order in which they are sent: block, first page, number.
    runs: Vec<(usize, u64, u64)>,
    /// How many of the pages the guest's first steps wait for; all where it does not say.
    #[serde(default)]
    early: Option<u64>,
}

impl WorkingSet {
    /// Reads the working set of a snapshot; none where there is none of use.
    pub(crate) fn load(folder: &VmFolder, snapshot: &SnapshotId) -> Option<Self> {
        let path = folder.working_set(snapshot);
        let short = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_FILE_BYTES);
        let set: Self =
            short.then(|| folder.files().read_json(&path, RECORD_VERSION).ok().flatten()).flatten()?;
        (set.pages() <= MAX_PAGES as u64).then_some(set)
    }

    /// Writes it; whole, or not at all.
    pub(crate) fn save(&self, folder: &VmFolder, snapshot: &SnapshotId) -> Result<()> {
        folder.files().write_json(&folder.working_set(snapshot), self)
    }

    /// The set with what a restore has shown. What was asked for early came too late, and goes first next time; what was
    /// asked for later goes behind what was known. Where there are too many, those asked for now count more.
    pub(crate) fn improved(known: Option<&Self>, blocks: &[RamBlock], asked: &FirstPages) -> Self {
        let FirstPages { early, later } = known.map(|set| set.pages_of(blocks)).unwrap_or_default();
        let new: HashSet<&PageAddress> = asked.early.iter().chain(&asked.later).collect();
        let room = MAX_PAGES.saturating_sub(new.len());
        let mut old = early.iter().chain(&later).filter(|page| !new.contains(page)).take(room);
        let still_early = early.iter().filter(|page| !new.contains(page)).count().min(room);
        let mut pages = asked.early.clone();
        pages.extend(old.by_ref().take(still_early));
        let early = pages.len();
        pages.extend(old.chain(&asked.later));
        let restores = known.map_or(0, |set| set.restores).saturating_add(1);
        Self { restores, early: Some(early.min(MAX_PAGES) as u64), ..Self::of(blocks, &pages) }
    }

    /// The set of these pages, as a guess before any restore.
    pub(crate) fn of(blocks: &[RamBlock], pages: &[PageAddress]) -> Self {
        let mut runs: Vec<(usize, u64, u64)> = Vec::new();
        for PageAddress { block, page } in pages.iter().take(MAX_PAGES) {
            match runs.last_mut() {
                Some((last, first, count)) if last == block && *first + *count == *page => *count += 1,
                _ => runs.push((*block, *page, 1)),
            }
        }
        let blocks = blocks.iter().map(|block| block.name.clone()).collect();
        Self { version: RECORD_VERSION, restores: 0, blocks, runs, early: None }
    }

    /// The pages, as a machine with these blocks numbers them; what it does not have is left out.
    pub(crate) fn pages_of(&self, blocks: &[RamBlock]) -> FirstPages {
        let number = |name: &String| blocks.iter().position(|block| block.name == *name);
        let numbers: Vec<Option<usize>> = self.blocks.iter().map(number).collect();
        let mut found = FirstPages::default();
        let mut early = self.early.unwrap_or(u64::MAX);
        for (block, first, count) in &self.runs {
            let split = first.saturating_add(early.min(*count));
            early = early.saturating_sub(*count);
            let Some(block) = numbers.get(*block).copied().flatten() else { continue };
            let end = first.saturating_add(*count).min(blocks.get(block).map_or(0, RamBlock::pages));
            let pages = |pages: Range<u64>| pages.map(|page| PageAddress { block, page });
            found.early.extend(pages(*first..split.min(end)));
            found.later.extend(pages(split..end));
        }
        found
    }

    /// Number of pages.
    pub(crate) fn pages(&self) -> u64 {
        self.runs.iter().fold(0, |sum: u64, (_, _, count)| sum.saturating_add(*count))
    }

    /// Bytes of these pages.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages().saturating_mul(PAGE_SIZE as u64)
    }

    /// How many restores it was learnt from.
    pub(crate) fn restores(&self) -> u32 {
        self.restores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<RamBlock> {
        vec![RamBlock::new("vga.vram", 16 << 12), RamBlock::new("pc.ram", 1 << 30)]
    }

    fn at(block: usize, page: u64) -> PageAddress {
        PageAddress { block, page }
    }

    fn pages(early: &[PageAddress], later: &[PageAddress]) -> FirstPages {
        FirstPages { early: early.to_vec(), later: later.to_vec() }
    }

    /// Guards what makes the second restore quick: all that was asked for is sent first next time, in its order, each
    /// page once; what came too late goes first, and what was known stays.
    #[test]
    fn a_restore_improves_it() {
        let asked = pages(&[at(1, 7), at(1, 8), at(0, 3)], &[at(1, 9), at(1, 20)]);
        let first = WorkingSet::improved(None, &blocks(), &asked);
        assert_eq!((first.pages(), first.restores()), (5, 1));
        assert_eq!(first.pages_of(&blocks()), asked);
        let asked = pages(&[at(1, 8), at(1, 100), at(1, 20)], &[at(1, 4), at(0, 3)]);
        let second = WorkingSet::improved(Some(&first), &blocks(), &asked);
        let expected = pages(&[at(1, 8), at(1, 100), at(1, 20), at(1, 7)], &[at(1, 9), at(1, 4), at(0, 3)]);
        assert_eq!(second.pages_of(&blocks()), expected);
        assert_eq!(second.restores(), 2);
        // A guess says nothing of when.
        let guess = WorkingSet::of(&blocks(), &[at(1, 7), at(1, 8)]);
        assert_eq!(guess.pages_of(&blocks()), pages(&[at(1, 7), at(1, 8)], &[]));
    }

    /// It is bounded, and what was seen last counts more.
    #[test]
    fn it_does_not_grow_for_ever() {
        let old: Vec<PageAddress> = (0..MAX_PAGES as u64).map(|page| at(1, page)).collect();
        let first = WorkingSet::improved(None, &blocks(), &pages(&old, &[]));
        for asked in [pages(&[at(1, 200_000)], &[]), pages(&[], &[at(1, 200_000)])] {
            let second = WorkingSet::improved(Some(&first), &blocks(), &asked);
            assert_eq!(second.pages(), MAX_PAGES as u64);
            let FirstPages { early, later } = second.pages_of(&blocks());
            assert_eq!(
                (early.first(), later.len()),
                (asked.early.first().or(old.first()), asked.later.len())
            );
            assert_eq!(later, asked.later);
        }
    }

    /// A machine has its blocks in its own order; what it has not is never asked of its image.
    #[test]
    fn blocks_go_by_name_and_pages_stay_inside() {
        let set = WorkingSet::of(&blocks(), &[at(1, 5), at(0, 15), at(0, 16), at(1, u64::MAX)]);
        let other = [RamBlock::new("pc.ram", 6 << 12), RamBlock::new("vga.vram", 16 << 12)];
        assert_eq!(set.pages_of(&other), pages(&[at(0, 5), at(1, 15)], &[]));
        assert_eq!(set.pages_of(&[]), FirstPages::default());
        // Early are those that were so in the machine it is of, wherever a run of pages is cut.
        let split = |early| WorkingSet {
            early: Some(early),
            ..WorkingSet::of(&blocks(), &[at(0, 15), at(1, 3), at(1, 4)])
        };
        assert_eq!(split(2).pages_of(&other), pages(&[at(1, 15), at(0, 3)], &[at(0, 4)]));
        assert_eq!(split(0).pages_of(&other[..1]), pages(&[], &[at(0, 3), at(0, 4)]));
        assert_eq!(split(3).pages_of(&other[..1]), pages(&[at(0, 3), at(0, 4)], &[]));
    }

    /// Damage of any kind must not keep a snapshot from being restored.
    #[test]
    fn a_damaged_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = VmFolder::at(dir.path().to_owned());
        std::fs::create_dir(folder.snapshots()).unwrap();
        let id: SnapshotId = "0123456789abcdef".parse().unwrap();
        let set = WorkingSet::of(&blocks(), &[at(1, 5)]);
        set.save(&folder, &id).unwrap();
        assert_eq!(WorkingSet::load(&folder, &id), Some(set));
        let path = folder.working_set(&id);
        for content in [
            "",
            "{}",
            "\0\0\0\0",
            r#"{"version":99,"restores":1,"blocks":[],"runs":[]}"#,
            r#"{"version":1,"restores":1,"blocks":["pc.ram"],"runs":[[0,0,18446744073709551615]]}"#,
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(WorkingSet::load(&folder, &id), None, "{content}");
        }
    }
}
