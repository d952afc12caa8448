//! Which objects are live, and in which pack the copy is that counts.

use std::collections::{HashMap, HashSet};

use crate::entry::{Entry, EntryNo, ObjectKind};
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::graph::{self, Below, NodeRef};
use crate::hash::{ObjectHash, PackId};
use crate::id::ImageId;
use crate::index::{Index, ObjectPlace};
use crate::objects::Objects;

/// What images need. Of an object that is in several packs one copy is live.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    /// Nodes whose trees were walked.
    nodes: HashSet<ObjectHash>,
    packs: HashMap<PackId, PackMarks>,
}

/// What is live in one pack.
#[derive(Debug, Clone)]
struct PackMarks {
    /// One bit for each entry.
    live: Vec<u64>,
    live_bytes: u64,
}

impl Marks {
    /// Marks what an image needs.
    ///
    /// # Errors
    /// Damage in its tree, and [`StoreError::MissingObject`].
    pub(super) fn mark_image(&mut self, objects: &Objects, file: &ImageFile) -> Result<(), StoreError> {
        for root in graph::roots(file) {
            self.mark_tree(objects, &file.id, root)?;
        }
        for blob in graph::blobs(file) {
            self.mark_object(objects, &blob, ObjectKind::Blob)?;
        }
        Ok(())
    }

    /// Returns the stored bytes of live objects in a pack.
    pub(super) fn live_bytes(&self, pack: &PackId) -> u64 {
        self.packs.get(pack).map_or(0, |marks| marks.live_bytes)
    }

    /// Says whether an entry is live.
    pub(super) fn is_live(&self, pack: &PackId, number: EntryNo) -> bool {
        let (word, bit) = position(number);
        self.packs.get(pack).and_then(|marks| marks.live.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Returns the place of an object that is live; none where it is not.
    pub(super) fn live_copy(
        &self,
        index: &Index,
        hash: &ObjectHash,
        kind: ObjectKind,
    ) -> Result<Option<ObjectPlace>, StoreError> {
        let mut found = None;
        index.each_place(hash, kind, |place, _| {
            let is_live = self.is_live(&place.pack, place.number);
            if is_live {
                found = Some(place);
            }
            Ok(is_live)
        })?;
        Ok(found)
    }

    /// Marks an entry of a pack of that many entries.
    pub(super) fn mark_place(&mut self, pack: PackId, entries: u32, number: EntryNo, entry: &Entry) {
        let words = (entries as usize).div_ceil(64);
        let marks =
            self.packs.entry(pack).or_insert_with(|| PackMarks { live: vec![0; words], live_bytes: 0 });
        let (word, bit) = position(number);
        if let Some(word) = marks.live.get_mut(word)
            && *word & bit == 0
        {
            *word |= bit;
            marks.live_bytes += u64::from(entry.stored_len);
        }
    }

    /// Returns the packs in which something is live.
    pub(super) fn packs(&self) -> impl Iterator<Item = &PackId> {
        self.packs.keys()
    }

    /// Says whether a tree has been walked.
    pub(super) fn has_node(&self, node: &ObjectHash) -> bool {
        self.nodes.contains(node)
    }

    fn mark_tree(&mut self, objects: &Objects, image: &ImageId, at: NodeRef) -> Result<(), StoreError> {
        if !self.nodes.insert(at.hash) {
            return Ok(());
        }
        self.mark_object(objects, &at.hash, ObjectKind::Node)?;
        match graph::below(objects, image, at)? {
            Below::Nodes(children) => {
                children.into_iter().try_for_each(|child| self.mark_tree(objects, image, child))
            }
            Below::Groups(groups) => {
                groups.iter().try_for_each(|group| self.mark_object(objects, group, ObjectKind::Group))
            }
        }
    }

    fn mark_object(
        &mut self,
        objects: &Objects,
        hash: &ObjectHash,
        kind: ObjectKind,
    ) -> Result<(), StoreError> {
        let mut first = None;
        let mut is_marked = false;
        objects.places(hash, kind, |place, pack| {
            is_marked |= self.is_live(&place.pack, place.number);
            first.get_or_insert((place, pack.entries()));
            Ok(is_marked)
        })?;
        if let Some((place, entries)) = first.filter(|_| !is_marked) {
            self.mark_place(place.pack, entries, place.number, &place.entry);
        }
        Ok(())
    }
}

/// Returns the word of an entry's bit, and the bit.
fn position(number: EntryNo) -> (usize, u64) {
    (number.0 as usize / 64, 1 << (number.0 % 64))
}
