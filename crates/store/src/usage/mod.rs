//! What images take in the storage: alone, and together with others.

use std::collections::HashMap;
use std::rc::Rc;

use crate::entry::ObjectKind;
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::graph::{self, Below, NodeRef};
use crate::hash::ObjectHash;
use crate::id::ImageId;
use crate::store::Store;

/// What a set of images takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetUsage {
    /// Bytes of all spaces, zeros included, and attachments.
    pub logical_bytes: u64,
    /// Stored bytes that no image outside of the set needs: what removing the set frees, after a collection.
    pub exclusive_bytes: u64,
    /// Stored bytes that images outside of the set need too.
    pub shared_bytes: u64,
}

/// Asks for the usage of sets of images; what it reads it remembers.
#[derive(Debug)]
pub struct UsageReader {
    store: Store,
    ids: HashMap<(ObjectHash, ObjectKind), u32>,
    /// Stored bytes of each object.
    bytes: Vec<u32>,
    /// What is below each node that was read.
    below: HashMap<ObjectHash, Rc<Below>>,
}

/// Which sets need an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Set(usize),
    Several,
}

impl Store {
    /// Returns what tells the usage of images.
    pub fn usage(&self) -> UsageReader {
        UsageReader { store: self.clone(), ids: HashMap::new(), bytes: Vec::new(), below: HashMap::new() }
    }

    /// Returns the bytes of all files of the store.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        let names = self.names()?;
        let len = |name: &String| self.shared.storage.open(name).and_then(|file| file.len()).unwrap_or(0);
        Ok(names.iter().map(len).sum())
    }
}

impl UsageReader {
    /// Returns what each set takes, in their order. An object that two of them need is shared for both.
    ///
    /// Images that are not there, or cannot be read, count as nothing; so do objects that are missing.
    ///
    /// # Errors
    /// Failures of the storage.
    pub fn of(&mut self, sets: &[Vec<ImageId>]) -> Result<Vec<SetUsage>, StoreError> {
        let mut owners: Vec<Owner> = Vec::new();
        let mut usages = Vec::with_capacity(sets.len());
        let mut needed = Vec::with_capacity(sets.len());
        for (number, images) in sets.iter().enumerate() {
            let mut usage = SetUsage::default();
            let mut visit = Visit { set: number, seen: Vec::new(), bytes: 0, owners: &mut owners };
            for image in images {
                if let Some(file) = self.file(image)? {
                    let file_bytes = u64::from(file.encoded_len());
                    usage.logical_bytes += logical_bytes(&file);
                    usage.exclusive_bytes += file_bytes;
                    self.visit_image(&file, &mut visit)?;
                }
            }
            needed.push(visit.bytes);
            usages.push(usage);
        }
        for (owner, bytes) in owners.iter().zip(&self.bytes) {
            if let Owner::Set(number) = owner {
                usages[*number].exclusive_bytes += u64::from(*bytes);
                needed[*number] -= u64::from(*bytes);
            }
        }
        for (usage, shared) in usages.iter_mut().zip(needed) {
            usage.shared_bytes = shared;
        }
        Ok(usages)
    }

    fn file(&self, image: &ImageId) -> Result<Option<ImageFile>, StoreError> {
        unless_damaged(self.store.image_file(image)).map(Option::flatten)
    }

    fn visit_image(&mut self, file: &ImageFile, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for root in graph::roots(file) {
            self.visit_tree(&file.id, root, visit)?;
        }
        for blob in graph::blobs(file) {
            let id = self.id(&blob, ObjectKind::Blob)?;
            visit.object(id, self.bytes[id as usize]);
        }
        Ok(())
    }

    fn visit_tree(&mut self, image: &ImageId, at: NodeRef, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let id = self.id(&at.hash, ObjectKind::Node)?;
        if !visit.object(id, self.bytes[id as usize]) {
            return Ok(());
        }
        let below = match self.below.get(&at.hash) {
            Some(known) => Rc::clone(known),
            None => {
                let read = unless_damaged(graph::below(&self.store.objects, image, at))?;
                let below = Rc::new(read.unwrap_or(Below::Nodes(Vec::new())));
                self.below.insert(at.hash, Rc::clone(&below));
                below
            }
        };
        match &*below {
            Below::Nodes(children) => {
                children.iter().try_for_each(|child| self.visit_tree(image, *child, visit))
            }
            Below::Groups(groups) => groups.iter().try_for_each(|group| {
                let id = self.id(group, ObjectKind::Group)?;
                visit.object(id, self.bytes[id as usize]);
                Ok(())
            }),
        }
    }

    /// Returns the number of an object, which is looked up once.
    fn id(&mut self, hash: &ObjectHash, kind: ObjectKind) -> Result<u32, StoreError> {
        if let Some(known) = self.ids.get(&(*hash, kind)) {
            return Ok(*known);
        }
        let mut stored_len = 0;
        let found = self.store.objects.places(hash, kind, |place, _| {
            stored_len = place.entry.stored_len;
            Ok(true)
        });
        match found {
            // What is lost takes nothing.
            Ok(()) | Err(StoreError::MissingObject { .. }) => {}
            Err(error) => return Err(error),
        }
        // Four billion objects would be 256 TiB of memory.
        let id = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.push(stored_len);
        self.ids.insert((*hash, kind), id);
        Ok(id)
    }
}

/// One set's walk.
struct Visit<'a> {
    set: usize,
    /// Which objects it has come to.
    seen: Vec<bool>,
    /// Stored bytes of them.
    bytes: u64,
    owners: &'a mut Vec<Owner>,
}

impl Visit<'_> {
    /// Comes to an object; says whether it is the first time.
    fn object(&mut self, id: u32, bytes: u32) -> bool {
        let at = id as usize;
        if self.seen.len() <= at {
            self.seen.resize(at + 1, false);
        }
        if std::mem::replace(&mut self.seen[at], true) {
            return false;
        }
        self.bytes += u64::from(bytes);
        if self.owners.len() <= at {
            self.owners.resize(at + 1, Owner::Nobody);
        }
        self.owners[at] = match self.owners[at] {
            Owner::Nobody => Owner::Set(self.set),
            Owner::Set(_) | Owner::Several => Owner::Several,
        };
        true
    }
}

fn logical_bytes(file: &ImageFile) -> u64 {
    let spaces: u64 = file.spaces.iter().map(|space| space.len).sum();
    spaces + file.attachments.iter().map(|attachment| attachment.len).sum::<u64>()
}

fn unless_damaged<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}
