//! Which blocks of a space are not zero, without reading them.

use std::ops::Range;

use super::{ImageReader, bulk};
use crate::block::SpaceIndex;
use crate::error::StoreError;
use crate::format::node::LEAF_BLOCKS;

impl ImageReader {
    /// Returns the runs of blocks of a space that are not zero, ascending, each as long as it can be within its leaf of
    /// 1024 blocks, or longer.
    pub fn data_runs(&self, space: SpaceIndex) -> impl Iterator<Item = Result<Range<u64>, StoreError>> {
        DataRuns { reader: self, space, leaf: 0, ready: Vec::new().into_iter(), last: None }
    }
}

/// See [`ImageReader::data_runs`].
struct DataRuns<'a> {
    reader: &'a ImageReader,
    space: SpaceIndex,
    /// Position in the list of leaves.
    leaf: usize,
    ready: std::vec::IntoIter<Range<u64>>,
    /// The run that may go on.
    last: Option<Range<u64>>,
}

impl DataRuns<'_> {
    /// Returns the next run within a leaf.
    fn next_part(&mut self) -> Result<Option<Range<u64>>, StoreError> {
        loop {
            if let Some(run) = self.ready.next() {
                return Ok(Some(run));
            }
            if self.reader.file.spaces.get(self.space.position()).is_none() {
                return Ok(None);
            }
            let Some(found) = self.reader.leaves(self.space)?.get(self.leaf) else { return Ok(None) };
            self.leaf += 1;
            let leaf = self.reader.load_leaf(self.space, found)?;
            self.ready = bulk::runs(&leaf, found.number * LEAF_BLOCKS).into_iter();
        }
    }
}

impl Iterator for DataRuns<'_> {
    type Item = Result<Range<u64>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_part() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return self.last.take().map(Ok),
                Ok(Some(run)) => match &mut self.last {
                    Some(last) if last.end == run.start => last.end = run.end,
                    last => {
                        if let Some(complete) = last.replace(run) {
                            return Some(Ok(complete));
                        }
                    }
                },
            }
        }
    }
}
