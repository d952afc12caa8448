//! Looks for damage: in packs, images, trees; and says which images each finding touches.
//!
//! Structure is checked always: every directory against its hash, every image's file and every node of its tree, and that
//! each object that is needed is in a directory. With `read_data` every object of every pack is read and verified too.
//!
//! An object with a good second copy touches no image. What is damaged and needed by no image is reported all the same. Damaged
//! copies are marked, so that no later image refers to them.

mod trace;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use trace::Trace;

use crate::entry::{Entry, EntryNo};
use crate::error::StoreError;
use crate::hash::PackId;
use crate::id::ImageId;
use crate::index::Index;
use crate::objects::Verifier;
use crate::ordered;
use crate::pack::PackFile;
use crate::progress::{self, OnProgress, Progress};
use crate::store::Store;

/// Stored bytes that are verified in one go.
const BATCH_BYTES: u64 = 4 << 20;

/// How thoroughly the store is checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Reads and verifies every byte, not the structure only.
    pub read_data: bool,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Images that were looked at.
    pub images: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Objects in them.
    pub objects: u64,
    /// Bytes that were read and verified.
    pub read_bytes: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Images of an earlier format, which this program cannot read.
    pub older: Vec<ImageId>,
}

/// Something that is damaged.
#[derive(Debug)]
pub struct Damage {
    /// What it is; of several objects that are missing, one.
    pub error: StoreError,
    /// How many objects it is.
    pub objects: u64,
    /// Images that cannot be read whole for it, in order.
    pub images: Vec<ImageId>,
}

impl Store {
    /// Checks the store, and goes on after damage.
    ///
    /// # Errors
    /// Only what keeps it from going on: failures of the storage, and [`StoreError::Interrupted`].
    pub fn check(
        &self,
        options: CheckOptions,
        progress: &mut OnProgress<'_>,
    ) -> Result<CheckReport, StoreError> {
        let index = self.objects.index();
        index.tidy()?;
        let mut check = Check { report: CheckReport::default(), bad: Bad::new() };
        let packs = index.packs()?;
        let mut step = Steps { progress, what: "reading packs", done: 0, total: packs.len() as u64 };
        // By name: as many files as there are packs can't be kept open.
        let mut readable = Vec::new();
        for id in packs {
            step.advance(1)?;
            let pack = check.structure(index.pack(id))?;
            readable.extend(pack.map(|pack| (id, pack.file_len())));
        }
        if options.read_data {
            step.what = "reading data";
            step.done = 0;
            step.total = readable.iter().map(|(_, len)| len).sum();
            for (id, len) in readable {
                match index.pack(id) {
                    Ok(Some(pack)) => check.data(index, &pack, &mut step)?,
                    // Removed by a collection meanwhile.
                    Ok(None) => step.advance(len)?,
                    Err(error) => check.found(error)?,
                }
            }
        }
        let images = self.images()?;
        step = Steps { progress: step.progress, what: "reading images", done: 0, total: images.len() as u64 };
        let mut trace = Trace::new(&self.objects, &check.bad, &mut check.report.damage);
        for image in images {
            step.advance(1)?;
            match self.image_file(&image) {
                Ok(Some(file)) => trace.image(&file)?,
                Ok(None) => check.report.older.push(image),
                Err(error) => trace.unreadable(image, error)?,
            }
            check.report.images += 1;
        }
        trace.finish();
        check.report.forget_removed(&self.images()?);
        Ok(check.report)
    }
}

impl CheckReport {
    /// Takes out what was found in images that were removed meanwhile: a collection can have taken what they need.
    fn forget_removed(&mut self, present: &[ImageId]) {
        for damage in &mut self.damage {
            damage.images.retain(|image| present.contains(image));
        }
        let is_lost = |damage: &Damage| matches!(damage.error, StoreError::MissingObject { .. });
        self.damage.retain(|damage| !is_lost(damage) || !damage.images.is_empty());
    }
}

/// Copies of objects that are damaged, with their place in the list of damage.
type Bad = HashMap<(PackId, EntryNo), usize>;

/// A check under way.
struct Check {
    report: CheckReport,
    bad: Bad,
}

impl Check {
    /// Checks a pack's structure; returns it where it can be opened.
    fn structure(
        &mut self,
        opened: Result<Option<Arc<PackFile>>, StoreError>,
    ) -> Result<Option<Arc<PackFile>>, StoreError> {
        self.report.packs += 1;
        let pack = match opened {
            Ok(Some(pack)) => pack,
            // Removed by a collection meanwhile.
            Ok(None) => return Ok(None),
            Err(error) => return self.found(error).map(|()| None),
        };
        self.report.objects += u64::from(pack.entries());
        let checked = pack.check_header().and_then(|()| pack.directory().map(drop));
        if let Err(error) = checked {
            self.found(error)?;
        }
        Ok(Some(pack))
    }

    /// Reads and verifies all objects of a pack.
    fn data(&mut self, index: &Index, pack: &PackFile, step: &mut Steps<'_, '_>) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        pack.each_entry(|number, entry, _| entries.push((number, *entry)))?;
        let batches = ordered::batches(&entries, BATCH_BYTES, |(_, entry)| u64::from(entry.stored_len));
        let mut was_bad: HashSet<EntryNo> =
            index.bad().into_iter().filter(|(id, _)| *id == pack.id()).map(|(_, number)| number).collect();
        let mut rest = pack.file_len();
        let work = |batch: &[(EntryNo, Entry)]| verify(pack, batch);
        let end = ordered::run(batches.into_iter(), work, |verified| {
            let step = verified.and_then(|(bytes, damaged)| {
                self.report.read_bytes += bytes;
                for (number, error) in damaged {
                    index.mark_bad(pack.id(), number);
                    was_bad.remove(&number);
                    self.bad.insert((pack.id(), number), self.report.damage.len());
                    self.found(error)?;
                }
                rest = rest.saturating_sub(bytes);
                step.advance(bytes)
            });
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        });
        match end {
            ControlFlow::Continue(()) => {
                // All others are whole now: a disk can have failed to read them for a while only.
                was_bad.into_iter().for_each(|number| index.unmark_bad(pack.id(), number));
                step.advance(rest)
            }
            ControlFlow::Break(error) => Err(error),
        }
    }

    /// Notes damage; any other error ends the check.
    fn found(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_damage() {
            return Err(error);
        }
        self.report.damage.push(Damage { error, objects: 1, images: Vec::new() });
        Ok(())
    }
}

/// Tells of progress.
struct Steps<'a, 'b> {
    progress: &'a mut OnProgress<'b>,
    what: &'static str,
    done: u64,
    total: u64,
}

impl Steps<'_, '_> {
    fn advance(&mut self, by: u64) -> Result<(), StoreError> {
        self.done += by;
        progress::tell(self.progress, Progress { what: self.what, done: self.done, total: self.total })
    }
}

/// Stored bytes that were read, and what was damaged in them.
type Verified = (u64, Vec<(EntryNo, StoreError)>);

fn verify(pack: &PackFile, batch: &[(EntryNo, Entry)]) -> Result<Verified, StoreError> {
    let mut verifier = Verifier::new();
    let mut bytes = 0;
    let mut damaged = Vec::new();
    for (number, entry) in batch {
        bytes += u64::from(entry.stored_len);
        match verifier.verify(pack, *number, entry) {
            Ok(_) => {}
            Err(error) if error.is_damage() => damaged.push((*number, error)),
            Err(error) => return Err(error),
        }
    }
    Ok((bytes, damaged))
}
