//! The working set of a snapshot: the pages that its guest touches first after a restore, in their order.
//!
//! A file of its own beside the manifest, `ID.working-set`. It is a guess that makes restores faster: it is bounded,
//! each restore improves it, and one that is damaged counts as none. Whatever it says, each page's content comes from the
//! image.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use vmrewind_qemu::postcopy::PageAddress;
use vmrewind_qemu::stream::{PAGE_SIZE, RamBlock};

use crate::error::Result;
use crate::ids::SnapshotId;
use crate::record::RECORD_VERSION;
use crate::root::VmFolder;
use crate::root::file::{read_json, write_json};

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
}

impl WorkingSet {
    /// Reads the working set of a snapshot; none where there is none of use.
    pub(crate) fn load(folder: &VmFolder, snapshot: &SnapshotId) -> Option<Self> {
        let path = folder.working_set(snapshot);
        let short = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_FILE_BYTES);
        let set: Self = short.then(|| read_json(&path, RECORD_VERSION).ok().flatten()).flatten()?;
        (set.pages() <= MAX_PAGES as u64).then_some(set)
    }

    /// Writes it; whole, or not at all.
    pub(crate) fn save(&self, folder: &VmFolder, snapshot: &SnapshotId) -> Result<()> {
        write_json(&folder.working_set(snapshot), self)
    }

    /// The set with what a restore has shown: the pages known before, then those that were asked for all the same. Where
    /// there are too many, those asked for now count more.
    pub(crate) fn improved(known: Option<&Self>, blocks: &[RamBlock], asked: &[PageAddress]) -> Self {
        let old = known.map(|set| set.pages_of(blocks)).unwrap_or_default();
        let new: HashSet<&PageAddress> = asked.iter().collect();
        let room = MAX_PAGES.saturating_sub(new.len());
        let old = old.iter().filter(|page| !new.contains(page)).take(room);
        let pages: Vec<PageAddress> = old.chain(asked).take(MAX_PAGES).copied().collect();
        let restores = known.map_or(0, |set| set.restores).saturating_add(1);
        Self { restores, ..Self::of(blocks, &pages) }
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
        Self { version: RECORD_VERSION, restores: 0, blocks, runs }
    }

    /// The pages, as a machine with these blocks numbers them; what it does not have is left out.
    pub(crate) fn pages_of(&self, blocks: &[RamBlock]) -> Vec<PageAddress> {
        let number = |name: &String| blocks.iter().position(|block| block.name == *name);
        let numbers: Vec<Option<usize>> = self.blocks.iter().map(number).collect();
        let mut pages = Vec::new();
        for (block, first, count) in &self.runs {
            let Some(block) = numbers.get(*block).copied().flatten() else { continue };
            let end = first.saturating_add(*count).min(blocks.get(block).map_or(0, RamBlock::pages));
            pages.extend((*first..end).map(|page| PageAddress { block, page }));
        }
        pages
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

    /// Guards what makes the second restore quick: all that was asked for is sent first next time, in its order, each
    /// page once, and what was known stays.
    #[test]
    fn a_restore_improves_it() {
        let first = WorkingSet::improved(None, &blocks(), &[at(1, 7), at(1, 8), at(0, 3)]);
        assert_eq!((first.pages(), first.restores()), (3, 1));
        let second = WorkingSet::improved(Some(&first), &blocks(), &[at(1, 8), at(1, 100)]);
        assert_eq!(second.pages_of(&blocks()), [at(1, 7), at(0, 3), at(1, 8), at(1, 100)]);
        assert_eq!(second.restores(), 2);
    }

    /// It is bounded, and what was seen last counts more.
    #[test]
    fn it_does_not_grow_for_ever() {
        let old: Vec<PageAddress> = (0..MAX_PAGES as u64).map(|page| at(1, page)).collect();
        let first = WorkingSet::improved(None, &blocks(), &old);
        let second = WorkingSet::improved(Some(&first), &blocks(), &[at(1, 200_000)]);
        assert_eq!(second.pages(), MAX_PAGES as u64);
        assert!(second.pages_of(&blocks()).contains(&at(1, 200_000)));
    }

    /// A machine has its blocks in its own order; what it has not is never asked of its image.
    #[test]
    fn blocks_go_by_name_and_pages_stay_inside() {
        let set = WorkingSet::of(&blocks(), &[at(1, 5), at(0, 15), at(0, 16), at(1, u64::MAX)]);
        let other = [RamBlock::new("pc.ram", 6 << 12), RamBlock::new("vga.vram", 16 << 12)];
        assert_eq!(set.pages_of(&other), [at(0, 5), at(1, 15)]);
        assert_eq!(set.pages_of(&[]), []);
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
