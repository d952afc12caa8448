//! Frees what no image refers to: plan, then apply.
//!
//! ```text
//!   plan:   images ──walk──▶ live objects ──▶ for each pack: keep, rewrite (mostly dead, or small), remove
//!   apply:  remove unnamed images ─▶ remove unused packs
//!           ─▶ for some of the rest at a time: copy live objects, verified, to new packs ─▶ sync, index ─▶ remove the old
//!   remove: alone with the store's lock: look at the images that came meanwhile ─▶ sync ─▶ remove what these do not need
//! ```
//!
//! Writers hold the store's lock shared from beginning to end, so the removal meets none of them; what they have finished
//! since the plan is looked at once more, and packs that it needs are kept. Readers hold no lock on packs: what they miss
//! they find in the new ones. Whatever is interrupted leaves packs too many, never too few.
//!
//! Damage stops it: where a tree cannot be walked nobody knows what is live.

mod apply;
mod compact;
mod decide;
mod mark;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use decide::{PackState, Verdict};
use mark::Marks;

use crate::entry::{EntryNo, ObjectKind};
use crate::error::StoreError;
use crate::format::pack::PACK_FOOTER_LEN;
use crate::hash::{ObjectHash, PackId};
use crate::id::ImageId;
use crate::index::Index;
use crate::pack::PackFile;
use crate::progress::{self, OnProgress, Progress};
use crate::shared::pack_name;
use crate::storage::LockKind;
use crate::store::Store;

/// What is to be freed.
#[derive(Debug, Clone, Default)]
pub struct GcOptions {
    /// Complete images that nobody names any more.
    pub remove_images: Vec<ImageId>,
}

/// What a collection would do; nothing is done yet.
#[derive(Debug, Clone, Default)]
pub struct GcPlan {
    /// Images that go.
    pub images: Vec<ImageId>,
    /// Packs that go, or are written anew without what is dead.
    pub packs: Vec<PackStep>,
    /// Files that dead writers left.
    pub parts: Vec<PartStep>,
    /// Bytes in all packs.
    pub pack_bytes: u64,
    /// Bytes of objects that images need.
    pub live_bytes: u64,
    /// Bytes that are free afterwards.
    pub freed_bytes: u64,
    /// An image is being written: what it has stored by now counts as dead here, and is kept.
    pub has_writers: bool,
    seen_images: BTreeSet<ImageId>,
    marks: Marks,
}

/// One pack that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackStep {
    /// The pack.
    pub pack: PackId,
    /// Length of its file.
    pub bytes: u64,
    /// Bytes in it that images need: they are written anew.
    pub live_bytes: u64,
    /// Why it goes.
    pub reason: PackReason,
}

/// Why a pack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackReason {
    /// No image needs anything in it.
    Unused,
    /// Less than half of it is needed.
    MostlyUnused,
    /// Something in it is damaged that no image needs.
    Damaged,
    /// It is one of many small ones.
    Small,
}

/// A file that a dead writer left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartStep {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Images that were removed.
    pub images: Vec<ImageId>,
    /// Packs that were removed.
    pub removed_packs: u64,
    /// Packs that were written.
    pub new_packs: u64,
    /// Bytes of removed files, less those of new ones.
    pub freed_bytes: u64,
    /// Packs of the plan that were kept, since an image that was finished meanwhile needs them, or since something in
    /// them is damaged.
    pub kept_packs: u64,
    /// Images of the plan that were kept, since somebody reads them.
    pub kept_images: Vec<ImageId>,
}

impl GcPlan {
    /// Says whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.packs.is_empty() && self.parts.is_empty()
    }
}

impl Store {
    /// Works out what a collection would do. Nothing is changed.
    ///
    /// # Errors
    /// Damage ([`StoreError::is_damage`]) in an image's file or tree, and objects that are missing: then nothing can be
    /// collected. [`StoreError::Interrupted`] where `progress` says so.
    pub fn plan_gc(&self, options: &GcOptions, progress: &mut OnProgress<'_>) -> Result<GcPlan, StoreError> {
        let index = self.objects.index();
        index.reload()?;
        // Packs before images: of an image that is there, the packs were listed or are kept.
        let packs = index.packs()?;
        // Before the images are listed: a writer that ends in between has been seen, or its image is.
        let has_writers = self.has_writers()?;
        let mut marks = Marks::default();
        let mut seen_images = BTreeSet::new();
        let images = self.images()?;
        let (doomed, kept): (Vec<ImageId>, Vec<ImageId>) =
            images.into_iter().partition(|image| options.remove_images.contains(image));
        let total = kept.len() as u64;
        for (done, image) in (0..).zip(kept) {
            progress::tell(progress, Progress { what: "reading images", done, total })?;
            if let Some(file) = self.image_file(&image)? {
                marks.mark_image(&self.objects, &file)?;
            }
            seen_images.insert(image);
        }
        let mut plan = GcPlan { images: doomed, seen_images, has_writers, ..GcPlan::default() };
        plan.parts = self.abandoned_parts()?;
        self.plan_packs(&mut plan, &mut marks, &packs)?;
        let images: u64 = plan.images.iter().map(|image| self.image_file_bytes(image)).sum();
        let parts: u64 = plan.parts.iter().map(|part| part.bytes).sum();
        let packs: u64 = plan.packs.iter().map(|pack| pack.bytes.saturating_sub(pack.live_bytes)).sum();
        plan.freed_bytes = images + parts + packs;
        plan.marks = marks;
        Ok(plan)
    }

    fn plan_packs(&self, plan: &mut GcPlan, marks: &mut Marks, packs: &[PackId]) -> Result<(), StoreError> {
        let index = self.objects.index();
        let mut states = Vec::with_capacity(packs.len());
        for id in packs {
            let (bytes, payload_bytes) = match index.pack(*id) {
                Ok(Some(pack)) => (pack.file_len(), pack.payload_bytes()),
                // All that images need was found, so nothing in it is needed. What a newer program wrote is left to that,
                // and what cannot be read now can perhaps be read later.
                Err(StoreError::DamagedFile { .. }) if self.is_readable(id) => (self.pack_file_bytes(id), 0),
                Ok(None) | Err(_) => continue,
            };
            let live_bytes = marks.live_bytes(id);
            states.push(PackState { id: *id, bytes, payload_bytes, live_bytes, has_dead_damage: false });
        }
        // A damaged copy that is live may be the only one, and a second reading may still succeed: it stays where it is. Only
        // where no damage of a pack is anybody's does the rest of it move, so that the damage goes.
        let bad = index.bad();
        for state in &mut states {
            let mut of_pack = bad.iter().filter(|(pack, _)| *pack == state.id).peekable();
            state.has_dead_damage =
                of_pack.peek().is_some() && !of_pack.any(|(pack, number)| marks.is_live(pack, *number));
        }
        // Where a pack that goes has a second copy of something live, the copy that stays has to be a good one. To find out,
        // it is read: only for packs that go, since reading every copy would be a check of the whole store. What turns out to
        // be damaged makes the copy here live, and a pack with more that is live can stay, and another go instead. So the
        // verdicts are asked for again, until none falls on a pack that was not looked at; each round looks at one more.
        let mut checked = HashSet::new();
        loop {
            let going: Vec<PackId> = decide::verdicts(&states).map(|(state, _)| state.id).collect();
            let unchecked: Vec<PackId> = going.into_iter().filter(|id| checked.insert(*id)).collect();
            if unchecked.is_empty() {
                break;
            }
            for id in unchecked {
                self.keep_good_copies(marks, id)?;
            }
            for state in &mut states {
                state.live_bytes = marks.live_bytes(&state.id);
            }
        }
        plan.pack_bytes = states.iter().map(|state| state.bytes).sum();
        plan.live_bytes = states.iter().map(|state| state.live_bytes).sum();
        plan.packs = decide::verdicts(&states)
            .map(|(state, verdict)| PackStep {
                pack: state.id,
                bytes: state.bytes,
                live_bytes: state.live_bytes,
                reason: match verdict {
                    Verdict::Unused => PackReason::Unused,
                    Verdict::MostlyUnused => PackReason::MostlyUnused,
                    Verdict::Damaged => PackReason::Damaged,
                    Verdict::Small => PackReason::Small,
                },
            })
            .collect();
        Ok(())
    }

    /// Looks at the objects of a pack that may go, of which another pack has the copy that counts as live: where that one is
    /// damaged, the one here is live instead.
    fn keep_good_copies(&self, marks: &mut Marks, pack: PackId) -> Result<(), StoreError> {
        let Some(file) = open_pack(self.objects.index(), pack)? else { return Ok(()) };
        let mut dead: Vec<(EntryNo, ObjectHash, ObjectKind)> = Vec::new();
        file.each_entry(|number, entry, _| {
            if !marks.is_live(&pack, number) {
                dead.push((number, entry.hash, entry.kind));
            }
        })?;
        for (number, hash, kind) in dead {
            let Some(place) = marks.live_copy(self.objects.index(), &hash, kind)? else { continue };
            let is_good = match self.objects.load_at(&place) {
                Ok(()) => true,
                Err(error) if error.is_damage() => false,
                Err(error) => return Err(error),
            };
            if !is_good && let Some(entry) = file.entry(number)? {
                marks.mark_place(pack, file.entries(), number, &entry);
            }
        }
        Ok(())
    }

    /// Says whether the end of a pack can be read, whatever it says.
    fn is_readable(&self, pack: &PackId) -> bool {
        let read = self.shared.storage.open(&pack_name(pack)).and_then(|file| {
            let len = file.len()?;
            let start = len.saturating_sub(PACK_FOOTER_LEN as u64);
            let mut end = vec![0; usize::try_from(len - start).unwrap_or(PACK_FOOTER_LEN)];
            file.read_at(start, &mut end)
        });
        read.is_ok()
    }

    /// Says whether an image is being written, by anyone.
    fn has_writers(&self) -> Result<bool, StoreError> {
        Ok(self.try_lock_alone(Some(Duration::ZERO))?.is_none())
    }

    fn abandoned_parts(&self) -> Result<Vec<PartStep>, StoreError> {
        let mut parts = Vec::new();
        for name in self.part_names()? {
            let held = self.shared.storage.lock(&name, LockKind::Exclusive, Some(Duration::ZERO));
            if let Ok(Some(file)) = held {
                let bytes = file.len().map_err(|error| self.shared.failed("read", &name, error))?;
                parts.push(PartStep { name, bytes });
            }
        }
        Ok(parts)
    }
}

/// Opens a pack of a plan, which nobody else removes; none where it is damaged.
fn open_pack(index: &Index, pack: PackId) -> Result<Option<std::sync::Arc<PackFile>>, StoreError> {
    match index.pack(pack) {
        Err(error) if error.is_damage() => Ok(None),
        opened => opened,
    }
}
