//! Objects by hash, verified, with the caches that all readers of a store share.
//!
//! Every object is hashed when it is loaded. Where one copy is damaged and another pack has the object too, the other
//! one is taken. An object that is not found is looked for again after the listing was read anew (a pack may have been
//! rewritten), and once more after the index was made anew, before it is called missing.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::entry::{Encoding, Entry, EntryNo, ObjectKind};
use crate::error::StoreError;
use crate::hash::{BlockHash, HASH_LEN, ObjectHash};
use crate::index::{Index, ObjectPlace};
use crate::pack::{Decoder, PackFile};
use crate::shared::Shared;

/// Bytes of expanded objects that are kept.
const CACHE_BYTES: u64 = 32 << 20;
/// Bytes of hashes of blocks that are kept.
const HASHES_BYTES: u64 = 16 << 20;
/// Expected bytes of a cached object, for sizing.
const OBJECT_BYTES: u64 = 64 << 10;
/// Expected bytes of a group's hashes, for sizing.
const GROUP_HASHES_BYTES: u64 = 16 * HASH_LEN as u64;

/// Reads objects; shared by all readers and writers of a store.
pub(crate) struct Objects {
    index: Index,
    objects: Cache<(ObjectHash, ObjectKind), Arc<[u8]>, ByLength>,
    hashes: Cache<ObjectHash, Arc<[BlockHash]>, ByLength>,
    /// Contexts and buffers that no thread uses now.
    scratch: Mutex<Vec<Scratch>>,
}

/// What a thread needs to load an object.
struct Scratch {
    decoder: Decoder,
    payload: Vec<u8>,
}

/// Weighs cached values by their length in bytes.
#[derive(Debug, Clone, Copy)]
struct ByLength;

impl<K> Weighter<K, Arc<[u8]>> for ByLength {
    fn weight(&self, _: &K, object: &Arc<[u8]>) -> u64 {
        object.len() as u64
    }
}

impl<K> Weighter<K, Arc<[BlockHash]>> for ByLength {
    fn weight(&self, _: &K, hashes: &Arc<[BlockHash]>) -> u64 {
        (hashes.len() * HASH_LEN) as u64
    }
}

impl Objects {
    /// Makes the reader of a store's objects. Nothing is read before the first use.
    pub(crate) fn new(shared: Arc<Shared>) -> Objects {
        let items = |bytes: u64, each: u64| usize::try_from(bytes / each).unwrap_or(usize::MAX);
        Objects {
            index: Index::new(shared),
            objects: Cache::with_weighter(items(CACHE_BYTES, OBJECT_BYTES), CACHE_BYTES, ByLength),
            hashes: Cache::with_weighter(items(HASHES_BYTES, GROUP_HASHES_BYTES), HASHES_BYTES, ByLength),
            scratch: Mutex::new(Vec::new()),
        }
    }

    /// Returns the index.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Returns an object's bytes, verified; from a cache where it was read lately.
    pub(crate) fn read(&self, hash: &ObjectHash, kind: ObjectKind) -> Result<Arc<[u8]>, StoreError> {
        if let Some(object) = self.objects.get(&(*hash, kind)) {
            return Ok(object);
        }
        let mut raw = Vec::new();
        self.read_into(hash, kind, &mut raw)?;
        let object: Arc<[u8]> = raw.into();
        self.objects.insert((*hash, kind), Arc::clone(&object));
        Ok(object)
    }

    /// Reads an object into `raw`, which gets its length, past the cache: for bulk reads.
    ///
    /// After an error the content of `raw` is not to be used.
    pub(crate) fn read_into(
        &self,
        hash: &ObjectHash,
        kind: ObjectKind,
        raw: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        self.with_scratch(|scratch| {
            self.search(hash, kind, |place, pack| {
                raw.resize(place.entry.raw_len as usize, 0);
                scratch.load(place, pack, raw)
            })
        })
    }

    /// Reads an object of just that length into `raw`, past the cache; says whether it has that length.
    ///
    /// Where it has not, and after an error, the content of `raw` is not to be used.
    pub(crate) fn read_exact(
        &self,
        hash: &ObjectHash,
        kind: ObjectKind,
        raw: &mut [u8],
    ) -> Result<bool, StoreError> {
        self.with_scratch(|scratch| {
            self.search(hash, kind, |place, pack| {
                let fits = place.entry.raw_len as usize == raw.len();
                if fits {
                    scratch.load(place, pack, raw)?;
                }
                Ok(fits)
            })
        })
    }

    /// Returns the hashes of a group's blocks, by slot.
    ///
    /// They are a help to compare blocks with: there are none where the pack's directory is damaged, or where the group is
    /// known to be.
    pub(crate) fn block_hashes(&self, group: &ObjectHash) -> Result<Arc<[BlockHash]>, StoreError> {
        if let Some(hashes) = self.hashes.get(group) {
            return Ok(hashes);
        }
        let mut found = Vec::new();
        self.places(group, ObjectKind::Group, |place, pack| {
            if !self.index.is_bad(place.pack, place.number) {
                found = pack.block_hashes(&place.entry)?;
            }
            Ok(!found.is_empty())
        })?;
        let found: Arc<[BlockHash]> = found.into();
        self.hashes.insert(*group, Arc::clone(&found));
        Ok(found)
    }

    /// Calls `visit` with the places of an object until it returns true; widens the search where there is none.
    ///
    /// # Errors
    /// [`StoreError::MissingObject`] where there is none all the same.
    pub(crate) fn places(
        &self,
        object: &ObjectHash,
        kind: ObjectKind,
        mut visit: impl FnMut(ObjectPlace, &PackFile) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let was_rebuilt = self.index.was_rebuilt();
        for effort in 0..3 {
            match effort {
                0 => {}
                1 => self.index.reload()?,
                _ if self.index.rebuild(was_rebuilt)? => {}
                _ => break,
            }
            let mut found = false;
            self.index.each_place(object, kind, |place, pack| {
                found = true;
                visit(place, pack)
            })?;
            if found {
                return Ok(());
            }
        }
        Err(StoreError::MissingObject { object: *object, kind })
    }

    /// Reads and verifies one copy of an object.
    pub(crate) fn load_at(&self, place: &ObjectPlace) -> Result<(), StoreError> {
        let missing = StoreError::MissingObject { object: place.entry.hash, kind: place.entry.kind };
        let pack = self.index.pack(place.pack)?.ok_or(missing)?;
        Verifier::new().verify(&pack, place.number, &place.entry).map(drop)
    }

    /// Applies `load` to the places of an object until it succeeds; widens the search before it gives up.
    fn search<T>(
        &self,
        object: &ObjectHash,
        kind: ObjectKind,
        mut load: impl FnMut(ObjectPlace, &PackFile) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut damage = None;
        let was_rebuilt = self.index.was_rebuilt();
        for effort in 0..3 {
            match effort {
                0 => {}
                1 => self.index.reload()?,
                _ if damage.is_none() && self.index.rebuild(was_rebuilt)? => {}
                _ => break,
            }
            let mut found = None;
            self.index.each_place(object, kind, |place, pack| match load(place, pack) {
                Ok(loaded) => {
                    found = Some(loaded);
                    Ok(true)
                }
                Err(error) if error.is_damage() => {
                    self.index.mark_bad(place.pack, place.number);
                    damage.get_or_insert(error);
                    Ok(false)
                }
                Err(error) => Err(error),
            })?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(damage.unwrap_or(StoreError::MissingObject { object: *object, kind }))
    }

    fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let free = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = free.unwrap_or_else(Scratch::new);
        let done = work(&mut scratch);
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        done
    }
}

/// Verifies stored objects one after the other.
pub(crate) struct Verifier {
    scratch: Scratch,
    raw: Vec<u8>,
}

impl Verifier {
    pub(crate) fn new() -> Verifier {
        Verifier { scratch: Scratch::new(), raw: Vec::new() }
    }

    /// Reads, expands and verifies an object, and returns it as it is stored.
    pub(crate) fn verify(
        &mut self,
        pack: &PackFile,
        number: EntryNo,
        entry: &Entry,
    ) -> Result<&[u8], StoreError> {
        let place = ObjectPlace { pack: pack.id(), number, entry: *entry };
        self.raw.resize(entry.raw_len as usize, 0);
        self.scratch.load(place, pack, &mut self.raw)?;
        Ok(if entry.encoding == Encoding::Raw { &self.raw } else { &self.scratch.payload })
    }
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { decoder: Decoder::new(), payload: Vec::new() }
    }

    /// Reads, expands and verifies an object; `raw` has its length.
    fn load(&mut self, place: ObjectPlace, pack: &PackFile, raw: &mut [u8]) -> Result<(), StoreError> {
        let ObjectPlace { pack: pack_id, entry, .. } = place;
        let decoded = if entry.encoding == Encoding::Raw {
            pack.payload(&entry, raw)?;
            Ok(())
        } else {
            // Bounded when the entry was decoded: by the file's length.
            self.payload.resize(entry.stored_len as usize, 0);
            pack.payload(&entry, &mut self.payload)?;
            self.decoder.decode(entry.encoding, &self.payload, raw)
        };
        let verified = decoded
            .and_then(|()| if ObjectHash::of(raw) == entry.hash { Ok(()) } else { Err("its hash is wrong") });
        verified.map_err(|what| StoreError::DamagedObject {
            object: entry.hash,
            kind: entry.kind,
            pack: pack_id,
            place: format!("at byte {}: {what}", entry.offset),
        })
    }
}
