//! Reading much of a space: whole leaves, over the cores, handed out in order.
//!
//! Each group that a leaf uses is read, verified and expanded once for that leaf, however its blocks lie. What is
//! ahead is bounded by a few leaves for each core, 4 MiB each for pages.

use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use super::ImageReader;
use crate::block::SpaceIndex;
use crate::entry::ObjectKind;
use crate::error::StoreError;
use crate::format::node::{LEAF_BLOCKS, Leaf};
use crate::ordered;
use crate::tree::LeafRef;

/// Empty buffers that are kept for use.
const MAX_SPARE: usize = 32;

/// The blocks of one leaf that are not zero.
struct Chunk {
    runs: Vec<Range<u64>>,
    /// Their bytes, run after run.
    data: Vec<u8>,
}

/// Buffers that are used again: fresh memory costs more than filling it.
#[derive(Default)]
pub(super) struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    pub(super) fn take(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    }
}

impl ImageReader {
    /// Reads the blocks among `blocks` of a space that are not zero, in order, with read-ahead over the cores.
    ///
    /// `visit` gets consecutive blocks and their bytes, at most 1024 blocks at once, and can break off: that is the
    /// result then. Blocks that it is not told of are zero. An error comes after all blocks before the damaged place.
    pub fn stream<B>(
        &self,
        space: SpaceIndex,
        blocks: Range<u64>,
        mut visit: impl FnMut(Range<u64>, &[u8]) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        let size = self.space(space, &blocks)?.block_size.bytes();
        let leaves = leaves_of(self.leaves(space)?, &blocks);
        let buffers = Buffers::default();
        let scratch = Buffers::default();
        let work = |found: &LeafRef| self.chunk(space, found, &blocks, &buffers, &scratch);
        let end = ordered::run(leaves.iter(), work, |chunk: Result<Chunk, StoreError>| {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return ControlFlow::Break(Err(error)),
            };
            let mut rest = chunk.data.as_slice();
            for run in chunk.runs {
                // At most 1024 blocks.
                let len = usize::try_from(run.end - run.start).unwrap_or(0) * size;
                let (data, after) = rest.split_at(len);
                rest = after;
                if let ControlFlow::Break(value) = visit(run, data) {
                    return ControlFlow::Break(Ok(value));
                }
            }
            buffers.give_back(chunk.data);
            ControlFlow::Continue(())
        });
        match end {
            ControlFlow::Continue(()) => Ok(ControlFlow::Continue(())),
            ControlFlow::Break(Ok(value)) => Ok(ControlFlow::Break(value)),
            ControlFlow::Break(Err(error)) => Err(error),
        }
    }

    /// Reads those of a leaf's blocks that are among `blocks`.
    fn chunk(
        &self,
        space: SpaceIndex,
        found: &LeafRef,
        blocks: &Range<u64>,
        buffers: &Buffers,
        scratch: &Buffers,
    ) -> Result<Chunk, StoreError> {
        let mut leaf = self.load_leaf(space, found)?;
        let first = found.number * LEAF_BLOCKS;
        cut(&mut leaf, first, blocks);
        let mut chunk = Chunk { runs: runs(&leaf, first), data: buffers.take() };
        let mut group = scratch.take();
        let filled = self.fill(&leaf, &mut chunk.data, &mut group);
        scratch.give_back(group);
        filled.map(|()| chunk)
    }

    /// Reads all blocks of a leaf into `data`, one after the other; `group` is scratch space.
    fn fill(&self, leaf: &Leaf, data: &mut Vec<u8>, group: &mut Vec<u8>) -> Result<(), StoreError> {
        let size = leaf.block_size.bytes();
        // Where each run goes, by group.
        let mut places: Vec<(u16, usize, usize)> = Vec::with_capacity(leaf.runs.len());
        let mut len = 0;
        for (at, run) in leaf.runs.iter().enumerate() {
            places.push((run.group, at, len));
            len += usize::from(run.count) * size;
        }
        // All of it is overwritten below.
        data.resize(len, 0);
        places.sort_unstable();
        for same in places.chunk_by(|one, next| one.0 == next.0) {
            let Some((number, ..)) = same.first() else { continue };
            let number = usize::from(*number);
            if let Some(range) = whole(leaf, same)
                && self.objects.read_exact(&leaf.groups[number], ObjectKind::Group, &mut data[range])?
            {
                continue;
            }
            self.objects.read_into(&leaf.groups[number], ObjectKind::Group, group)?;
            for (_, at, offset) in same {
                let run = &leaf.runs[*at];
                let (start, len) = (usize::from(run.slot) * size, usize::from(run.count) * size);
                let found = group.get(start..start + len).ok_or_else(|| self.short_group(leaf, number))?;
                data[*offset..*offset + len].copy_from_slice(found);
            }
        }
        Ok(())
    }
}

/// Returns where the blocks of a group go, if they go there one after the other from the first one on: then a group that
/// has no more of them can be expanded right there. `places` are all runs of one group: group, run and where it goes.
fn whole(leaf: &Leaf, places: &[(u16, usize, usize)]) -> Option<Range<usize>> {
    let size = leaf.block_size.bytes();
    let start = places.first()?.2;
    let mut blocks = 0;
    for (_, at, offset) in places {
        let run = &leaf.runs[*at];
        if usize::from(run.slot) != blocks || *offset != start + blocks * size {
            return None;
        }
        blocks += usize::from(run.count);
    }
    Some(start..start + blocks * size)
}

/// Returns the leaves that cover any of `blocks`.
fn leaves_of<'a>(leaves: &'a [LeafRef], blocks: &Range<u64>) -> &'a [LeafRef] {
    let from = leaves.partition_point(|leaf| (leaf.number + 1) * LEAF_BLOCKS <= blocks.start);
    let to = leaves.partition_point(|leaf| leaf.number * LEAF_BLOCKS < blocks.end);
    leaves.get(from..to).unwrap_or_default()
}

/// Takes the blocks out of a leaf that are not among `blocks`; the leaf's first block is `first`.
fn cut(leaf: &mut Leaf, first: u64, blocks: &Range<u64>) {
    if blocks.start <= first && blocks.end >= first + LEAF_BLOCKS {
        return;
    }
    // Positions in the leaf, at most 1024.
    let position = |block: u64| u16::try_from(block.saturating_sub(first).min(LEAF_BLOCKS)).unwrap_or(0);
    let (start, end) = (position(blocks.start), position(blocks.end));
    leaf.runs.retain_mut(|run| {
        let before = start.saturating_sub(run.first).min(run.count);
        run.first += before;
        run.slot = run.slot.saturating_add(u8::try_from(before).unwrap_or(u8::MAX));
        run.count = (run.count - before).min(end.saturating_sub(run.first));
        run.count > 0
    });
}

/// Returns the runs of a leaf's blocks, as long as they can be, counted from the start of the space.
pub(super) fn runs(leaf: &Leaf, first: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for run in &leaf.runs {
        let start = first + u64::from(run.first);
        let end = start + u64::from(run.count);
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}
