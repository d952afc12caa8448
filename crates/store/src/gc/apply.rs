//! Carries a plan out. See the parent module for the order and what keeps it safe.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compact::{Compaction, REWRITING};
use super::mark::Marks;
use super::{GcPlan, GcReport, PackStep};
use crate::entry::ObjectKind;
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::graph::{self, Below, NodeRef};
use crate::hash::{ObjectHash, PackId};
use crate::id::ImageId;
use crate::index::ObjectPlace;
use crate::objects::Objects;
use crate::ordered;
use crate::progress::{self, OnProgress, Progress};
use crate::shared::{LOCK_NAME, Latch, pack_name};
use crate::storage::{LockKind, StorageFile};
use crate::store::Store;

/// Held by the one collection that is under way.
const GC_LOCK: &str = "gc-lock";
/// Live bytes that are written anew before the packs that they came from are removed.
const BATCH_BYTES: u64 = 256 << 20;
/// Longest wait for a lock before the caller is asked whether to go on.
const LOCK_SLICE: Duration = Duration::from_millis(200);

impl Store {
    /// Carries a plan out, beside writers and readers of this process and of others.
    ///
    /// Packs that are written anew are removed a few at a time, so that no more space is needed than those take.
    ///
    /// To remove packs it needs to be alone with the store's lock for a moment. Each time it waits for the writers that are
    /// at work until `wait` is over, and fails with [`StoreError::Busy`] then: what it has written counts as dead the next
    /// time.
    ///
    /// # Errors
    /// [`StoreError::Busy`] also where another collection is under way.
    pub fn gc(
        &self,
        plan: &GcPlan,
        wait: Duration,
        progress: &mut OnProgress<'_>,
    ) -> Result<GcReport, StoreError> {
        if self.latched() {
            return Err(StoreError::Latched);
        }
        // Two collections could each keep the copy that the other removes.
        let _only_one = self.lock_gc()?;
        self.check_current(plan)?;
        let mut report = GcReport::default();
        for image in &plan.images {
            match self.remove_image(image) {
                Ok(bytes) => {
                    report.freed_bytes += bytes;
                    report.images.push(image.clone());
                }
                Err(StoreError::InUse { .. }) => report.kept_images.push(image.clone()),
                Err(error) => return Err(error),
            }
        }
        // What frees space goes before what needs some: on a full disk, too, a collection gets on.
        let unused = plan.packs.iter().filter(|step| step.live_bytes == 0).map(|step| step.pack).collect();
        self.remove_unneeded(plan, unused, wait, &mut report, progress)?;
        let rewrite: Vec<&PackStep> = plan.packs.iter().filter(|step| step.live_bytes > 0).collect();
        let total = rewrite.iter().map(|step| step.live_bytes).sum();
        let mut done = 0;
        let mut written: HashMap<PackId, u64> = HashMap::new();
        for batch in ordered::batches(&rewrite, BATCH_BYTES, |step| step.live_bytes) {
            let mut told = |progress_of: Progress| match progress_of.what {
                REWRITING => progress(Progress { done: done + progress_of.done, total, ..progress_of }),
                _ => progress(progress_of),
            };
            // A pack can be written again with the same content, and then it is the one that counts.
            let is_old = |step: &&&PackStep| !written.contains_key(&step.pack);
            let packs = batch.iter().filter(is_old).map(|step| (step.pack, step.live_bytes));
            let packs: Vec<(PackId, u64)> = packs.collect();
            let rewritten = Compaction::new(Latch::new(Arc::clone(&self.shared)), &self.objects, &plan.marks)
                .run(&packs, &mut told)?;
            done += packs.iter().map(|(_, live_bytes)| live_bytes).sum::<u64>();
            report.new_packs += rewritten.new.len() as u64;
            written.extend(rewritten.new.iter().map(|pack| (pack.id, pack.stored_bytes)));
            let doomed = rewritten.replaced.into_iter().filter(|pack| !written.contains_key(pack)).collect();
            self.remove_unneeded(plan, doomed, wait, &mut report, progress)?;
        }
        report.kept_packs = (plan.packs.len() as u64).saturating_sub(report.removed_packs);
        for part in &plan.parts {
            let removed = self.shared.storage.remove_abandoned(&part.name);
            let removed = removed.map_err(|error| self.shared.failed("remove", &part.name, error))?;
            report.freed_bytes += removed.unwrap_or(0);
        }
        self.forget_bad()?;
        report.freed_bytes = report.freed_bytes.saturating_sub(written.values().sum());
        self.objects.index().tidy()?;
        Ok(report)
    }

    /// Refuses a plan that another collection has overtaken: it may have removed the copies that this one keeps.
    fn check_current(&self, plan: &GcPlan) -> Result<(), StoreError> {
        self.objects.index().reload()?;
        let packs: HashSet<PackId> = self.objects.index().packs()?.into_iter().collect();
        if plan.marks.packs().all(|pack| packs.contains(pack)) {
            return Ok(());
        }
        Err(StoreError::Busy { what: "another collection was done meanwhile" })
    }

    /// Removes those packs that no image needs that came since the plan, once no image is being written.
    fn remove_unneeded(
        &self,
        plan: &GcPlan,
        doomed: BTreeSet<PackId>,
        wait: Duration,
        report: &mut GcReport,
        progress: &mut OnProgress<'_>,
    ) -> Result<(), StoreError> {
        if doomed.is_empty() {
            return Ok(());
        }
        let alone = self.lock_alone(wait, progress)?;
        self.remove_packs(plan, doomed, report, progress)?;
        drop(alone);
        Ok(())
    }

    /// Removes those packs that no image needs that came since the plan. The caller is alone with the store's lock.
    fn remove_packs(
        &self,
        plan: &GcPlan,
        doomed: BTreeSet<PackId>,
        report: &mut GcReport,
        progress: &mut OnProgress<'_>,
    ) -> Result<(), StoreError> {
        let index = self.objects.index();
        // Both after the lock was got, which whoever writes has shared: from here on no image comes, and one that came since
        // the plan is in the list. What it refers to is in packs that are in the index by now.
        index.reload()?;
        let images = self.images()?;
        let came = images.iter().filter(|image| !plan.seen_images.contains(image));
        let mut needs = Needs { objects: &self.objects, marks: &plan.marks, seen: HashSet::new(), doomed };
        for image in came {
            if let Some(file) = self.image_file(image)? {
                needs.spare_image(&file)?;
            }
        }
        let spared = needs.doomed;
        // The copies that stay can be in packs whose names nobody has synced: of a writer, or of a collection, that ended
        // between naming and syncing. Were they lost in a crash that the removal outlives, nothing would be left. After
        // this sync, and not without it, what goes may go.
        self.shared.sync_names("kept packs")?;
        let total = spared.len() as u64;
        for (done, pack) in (0..).zip(&spared) {
            progress::tell(progress, Progress { what: "removing packs", done, total })?;
            report.freed_bytes += self.remove_pack(pack)?;
            report.removed_packs += 1;
        }
        self.shared.sync_names("removed packs")?;
        index.reload()
    }

    fn remove_pack(&self, pack: &PackId) -> Result<u64, StoreError> {
        let name = pack_name(pack);
        let storage = &self.shared.storage;
        let removed = storage.open(&name).and_then(|file| {
            let len = file.len()?;
            storage.remove(&name).map(|()| len)
        });
        match removed {
            Ok(len) => Ok(len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.shared.failed("remove", &name, error)),
        }
    }

    /// Removes the marks of damage in packs that are gone.
    fn forget_bad(&self) -> Result<(), StoreError> {
        let index = self.objects.index();
        let packs: HashSet<PackId> = index.packs()?.into_iter().collect();
        let gone = index.bad().into_iter().filter(|(pack, _)| !packs.contains(pack));
        gone.for_each(|(pack, number)| index.unmark_bad(pack, number));
        Ok(())
    }

    fn lock_gc(&self) -> Result<Box<dyn StorageFile>, StoreError> {
        let what = "another collection is under way";
        self.lock_file(GC_LOCK, LockKind::Exclusive, Some(Duration::ZERO))?.ok_or(StoreError::Busy { what })
    }

    /// Waits until no image is being written, and keeps it so.
    fn lock_alone(
        &self,
        wait: Duration,
        progress: &mut OnProgress<'_>,
    ) -> Result<Box<dyn StorageFile>, StoreError> {
        let begun = Instant::now();
        loop {
            let left = wait.saturating_sub(begun.elapsed());
            if let Some(alone) = self.try_lock_alone(Some(left.min(LOCK_SLICE)))? {
                return Ok(alone);
            }
            if left.is_zero() {
                return Err(StoreError::Busy { what: "images are being written" });
            }
            progress::tell(progress, Progress { what: "waiting for captures", done: 0, total: 0 })?;
        }
    }

    /// Takes the store's lock against all writers; none when they have kept it for all of `wait`.
    pub(super) fn try_lock_alone(
        &self,
        wait: Option<Duration>,
    ) -> Result<Option<Box<dyn StorageFile>>, StoreError> {
        self.lock_file(LOCK_NAME, LockKind::Exclusive, wait)
    }
}

/// Takes packs that an image needs off the list of those that go.
struct Needs<'a> {
    objects: &'a Objects,
    /// Trees that the plan has walked: what they need is not on the list, or in a new pack.
    marks: &'a Marks,
    seen: HashSet<ObjectHash>,
    doomed: BTreeSet<PackId>,
}

impl Needs<'_> {
    fn spare_image(&mut self, file: &ImageFile) -> Result<(), StoreError> {
        for root in graph::roots(file) {
            self.spare_tree(&file.id, root)?;
        }
        for blob in graph::blobs(file) {
            self.spare_object(&blob, ObjectKind::Blob)?;
        }
        Ok(())
    }

    fn spare_tree(&mut self, image: &ImageId, at: NodeRef) -> Result<(), StoreError> {
        if self.marks.has_node(&at.hash) || !self.seen.insert(at.hash) {
            return Ok(());
        }
        self.spare_object(&at.hash, ObjectKind::Node)?;
        match graph::below(self.objects, image, at)? {
            Below::Nodes(children) => {
                children.into_iter().try_for_each(|child| self.spare_tree(image, child))
            }
            Below::Groups(groups) => {
                groups.iter().try_for_each(|group| self.spare_object(group, ObjectKind::Group))
            }
        }
    }

    /// Of an object in packs that go, one copy is kept where no good one stays.
    fn spare_object(&mut self, hash: &ObjectHash, kind: ObjectKind) -> Result<(), StoreError> {
        let mut places = Vec::new();
        self.objects.places(hash, kind, |place, _| {
            places.push(place);
            Ok(false)
        })?;
        let (going, staying): (Vec<ObjectPlace>, Vec<ObjectPlace>) =
            places.into_iter().partition(|place| self.doomed.contains(&place.pack));
        if going.is_empty() || self.good_one(&staying)?.is_some() {
            return Ok(());
        }
        if let Some(spared) = self.good_one(&going)?.or(going.first()) {
            self.doomed.remove(&spared.pack);
        }
        Ok(())
    }

    fn good_one<'p>(&self, places: &'p [ObjectPlace]) -> Result<Option<&'p ObjectPlace>, StoreError> {
        for place in places {
            match self.objects.load_at(place) {
                Ok(()) => return Ok(Some(place)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
