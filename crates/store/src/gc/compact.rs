//! Writes the live objects of some packs to new ones.
//!
//! Payloads are copied as they are stored, each after it was expanded and verified, so that no damage is carried over and
//! no good copy is given up for a bad one.

use std::sync::Arc;

use super::mark::Marks;
use super::open_pack;
use crate::entry::{Entry, EntryNo};
use crate::error::StoreError;
use crate::hash::{BlockHash, PackId};
use crate::objects::{Objects, Verifier};
use crate::pack::{NewObject, PackFile, PackWriter, SealedPack};
use crate::progress::{self, OnProgress, Progress};
use crate::shared::{Latch, PACK_PART_SUFFIX};

/// What progress is told of.
pub(super) const REWRITING: &str = "rewriting packs";

/// Packs that were written, and old ones that have nothing left that others have not.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    pub(super) new: Vec<SealedPack>,
    /// Old packs whose live objects are all in new ones.
    pub(super) replaced: Vec<PackId>,
    /// Old packs in which a live object is damaged.
    pub(super) damaged: Vec<PackId>,
}

/// The writing of new packs.
pub(super) struct Compaction<'a> {
    latch: Arc<Latch>,
    objects: &'a Objects,
    marks: &'a Marks,
    writer: Option<PackWriter>,
    verifier: Verifier,
    done: Rewritten,
}

impl<'a> Compaction<'a> {
    pub(super) fn new(latch: Arc<Latch>, objects: &'a Objects, marks: &'a Marks) -> Compaction<'a> {
        let (verifier, done) = (Verifier::new(), Rewritten::default());
        Compaction { latch, objects, marks, writer: None, verifier, done }
    }

    /// Copies the live objects of `packs`, and syncs what was written. Nothing is removed.
    pub(super) fn run(
        mut self,
        packs: &[(PackId, u64)],
        progress: &mut OnProgress<'_>,
    ) -> Result<Rewritten, StoreError> {
        let total = packs.iter().map(|(_, live_bytes)| live_bytes).sum();
        let mut done = 0;
        for (id, live_bytes) in packs {
            progress::tell(progress, Progress { what: REWRITING, done, total })?;
            let Some(pack) = open_pack(self.objects.index(), *id)? else { continue };
            match self.copy_pack(&pack) {
                Ok(()) => self.done.replaced.push(*id),
                Err(error) if error.is_damage() => self.done.damaged.push(*id),
                Err(error) => return Err(error),
            }
            done += live_bytes;
        }
        self.finish_pack()?;
        if !self.done.new.is_empty() {
            // Before the index tells of them, and before their old copies are doomed: a name that can still be lost is
            // nothing to refer to.
            self.latch.sync_names("new packs")?;
            let ids: Vec<PackId> = self.done.new.iter().map(|pack| pack.id).collect();
            self.objects.index().add_packs(&ids)?;
        }
        Ok(self.done)
    }

    fn copy_pack(&mut self, pack: &PackFile) -> Result<(), StoreError> {
        // A directory that is not whole could hide a live entry's blocks: nothing is taken from it.
        let directory = pack.directory()?;
        for (number, entry) in directory.numbered() {
            if self.marks.is_live(&pack.id(), number) {
                self.copy_object(pack, number, entry, directory.block_hashes(entry))?;
            }
        }
        Ok(())
    }

    fn copy_object(
        &mut self,
        pack: &PackFile,
        number: EntryNo,
        entry: &Entry,
        hashes: &[BlockHash],
    ) -> Result<(), StoreError> {
        let payload = self.verifier.verify(pack, number, entry)?;
        if self.writer.as_ref().is_some_and(PackWriter::is_full) {
            let full = self.writer.take();
            self.done.new.extend(full.map(PackWriter::finish).transpose()?.flatten());
        }
        let writer = match &self.writer {
            Some(writer) => writer,
            None => {
                let part = self.latch.shared().temporary_name(PACK_PART_SUFFIX);
                self.writer.insert(PackWriter::begin(Arc::clone(&self.latch), &part)?)
            }
        };
        let blocks = entry.blocks.map(|blocks| (blocks.size, hashes));
        let Entry { hash, kind, encoding, raw_len, .. } = *entry;
        writer.append(NewObject { hash, kind, encoding, raw_len, payload, blocks })?;
        Ok(())
    }

    fn finish_pack(&mut self) -> Result<(), StoreError> {
        let last = self.writer.take();
        self.done.new.extend(last.map(PackWriter::finish).transpose()?.flatten());
        Ok(())
    }
}
