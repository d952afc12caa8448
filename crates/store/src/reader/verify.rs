//! Reading all of an image to find damage: every node, every group once, every attachment.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use super::ImageReader;
use super::bulk::Buffers;
use crate::block::SpaceIndex;
use crate::entry::ObjectKind;
use crate::error::{Part, StoreError};
use crate::format::Flaw;
use crate::hash::ObjectHash;
use crate::ordered;
use crate::tree::LeafRef;

/// What verifying has come to.
struct Tally<'a> {
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
}

impl ImageReader {
    /// Reads and checks every byte that belongs to the image.
    ///
    /// `progress` is told the bytes done and the total after each part, and can stop the work
    /// ([`StoreError::Stopped`]). The first damage found is the result.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<(), StoreError> {
        let attached = self.file.attachments.iter().map(|attachment| attachment.len).sum::<u64>();
        let mut tally = Tally { done: 0, total: self.data_bytes() + attached, progress };
        let seen = Mutex::new(HashSet::new());
        for space in &self.spaces {
            self.verify_space(space.index, &seen, &mut tally)?;
        }
        for attachment in &self.file.attachments {
            let bytes = self.attachment(&attachment.name)?;
            self.advance(&mut tally, bytes.len() as u64)?;
        }
        Ok(())
    }

    fn verify_space(
        &self,
        space: SpaceIndex,
        seen: &Mutex<HashSet<ObjectHash>>,
        tally: &mut Tally<'_>,
    ) -> Result<(), StoreError> {
        let entry = &self.file.spaces[space.position()];
        let buffers = Buffers::default();
        let mut blocks = 0;
        let work = |found: &LeafRef| self.verify_leaf(space, found, seen, &buffers);
        let end = ordered::run(self.leaves(space)?.iter(), work, |verified| {
            let step = verified.and_then(|found| {
                blocks += found;
                self.advance(tally, found * entry.block_size.bytes_u64())
            });
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        });
        if let ControlFlow::Break(error) = end {
            return Err(error);
        }
        if blocks == entry.data_blocks {
            return Ok(());
        }
        let place = format!("space {:?} has {blocks} data blocks, not {}", entry.name, entry.data_blocks);
        Err(Flaw::new(Part::Tables, place).of(self.id()))
    }

    /// Reads the groups of a leaf that were not read before; returns the number of the leaf's blocks.
    fn verify_leaf(
        &self,
        space: SpaceIndex,
        found: &LeafRef,
        seen: &Mutex<HashSet<ObjectHash>>,
        buffers: &Buffers,
    ) -> Result<u64, StoreError> {
        let leaf = self.load_leaf(space, found)?;
        let mut needed = vec![0_usize; leaf.groups.len()];
        for run in &leaf.runs {
            let end = usize::from(run.slot) + usize::from(run.count);
            let group = &mut needed[usize::from(run.group)];
            *group = end.max(*group);
        }
        let mut raw = buffers.take();
        for (at, (hash, slots)) in leaf.groups.iter().zip(needed).enumerate() {
            let is_new = seen.lock().unwrap_or_else(PoisonError::into_inner).insert(*hash);
            if is_new {
                self.objects.read_into(hash, ObjectKind::Group, &mut raw)?;
                if raw.len() < slots * leaf.block_size.bytes() {
                    return Err(self.short_group(&leaf, at));
                }
            }
        }
        buffers.give_back(raw);
        Ok(leaf.data_blocks())
    }

    fn advance(&self, tally: &mut Tally<'_>, bytes: u64) -> Result<(), StoreError> {
        tally.done += bytes;
        match (tally.progress)(tally.done, tally.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::Stopped { image: self.id().clone() }),
        }
    }
}
