//! Complete packs that are read, of which the ones used lately stay open: single entries, hashes and payloads by small reads, or the directory as a whole.
//!
//! Opening reads the footer only. Entries that are read one by one are not verified by the directory's hash: what they
//! lead to is, by its own. Nothing is verified by the hashes of blocks, but blocks are taken for equal by them: they come from
//! a directory only that is as it was written.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quick_cache::sync::Cache;

use crate::entry::{Entry, EntryNo};
use crate::error::{Part, StoreError};
use crate::format::Flaw;
use crate::format::pack::{
    Directory, ENTRY_LEN, PACK_FOOTER_LEN, PACK_HEADER_LEN, PACK_VERSION, PackFooter, check_pack_header,
};
use crate::hash::{BlockHash, HASH_LEN, PackId};
use crate::shared::{Shared, pack_name};
use crate::storage::{StorageFile, lost};

/// Packs that are kept open.
const OPEN_PACKS: usize = 128;

/// An open pack; it can be read on when its name is gone.
pub(crate) struct PackFile {
    shared: Arc<Shared>,
    id: PackId,
    footer: PackFooter,
    file: Box<dyn StorageFile>,
    /// Whether the directory is as it was written, once that was looked at.
    is_sound: Arc<OnceLock<bool>>,
}

impl PackFile {
    /// Opens a pack; none when it is not there.
    pub(crate) fn open(shared: &Arc<Shared>, id: PackId) -> Result<Option<PackFile>, StoreError> {
        let name = pack_name(&id);
        let file = match shared.storage.open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(shared.failed("open", &name, error)),
        };
        let len = file.len().map_err(|error| shared.failed("read", &name, error))?;
        let mut bytes = [0; PACK_FOOTER_LEN];
        let flawed = |flaw: Flaw| flaw.in_file(shared.storage.locate(&name), PACK_VERSION);
        let Some(offset) = len.checked_sub(PACK_FOOTER_LEN as u64) else {
            return Err(flawed(Flaw::new(Part::Footer, format!("the file has only {len} bytes"))));
        };
        file.read_at(offset, &mut bytes).map_err(|error| match lost(&error) {
            Some(why) => flawed(Flaw::new(Part::Footer, why)),
            None => shared.failed("read", &name, error),
        })?;
        let footer = PackFooter::decode(&bytes, len).map_err(flawed)?;
        if footer.id != id {
            return Err(flawed(Flaw::new(Part::Footer, format!("it belongs to pack {}", footer.id))));
        }
        Ok(Some(PackFile { shared: Arc::clone(shared), id, footer, file, is_sound: Arc::default() }))
    }

    /// Returns the pack's id.
    pub(crate) fn id(&self) -> PackId {
        self.id
    }

    /// Returns the number of entries.
    pub(crate) fn entries(&self) -> u32 {
        self.footer.entries
    }

    /// Returns the stored bytes of all objects.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.footer.directory_offset - PACK_HEADER_LEN as u64
    }

    /// Returns how many objects and blocks an index has to know for this pack.
    pub(crate) fn hints(&self) -> u64 {
        u64::from(self.footer.entries) + u64::from(self.footer.blocks)
    }

    /// Returns the length of the file in bytes.
    pub(crate) fn file_len(&self) -> u64 {
        self.footer.file_len()
    }

    /// Reads one entry; none when the pack has no such number.
    pub(crate) fn entry(&self, number: EntryNo) -> Result<Option<Entry>, StoreError> {
        let Some(offset) = self.footer.entry_offset(number) else { return Ok(None) };
        let mut bytes = [0; ENTRY_LEN];
        self.read(offset, &mut bytes, Part::Directory)?;
        let decoded = Entry::decode(&bytes, &self.footer);
        let place = format_args!("entry {}", number.0).to_string();
        decoded.map(Some).map_err(|flaw| self.flawed(flaw.at(place)))
    }

    /// Reads the hash of one block of a group; none when the entry has no such block, or the directory is damaged.
    pub(crate) fn block_hash(&self, entry: &Entry, slot: u8) -> Result<Option<BlockHash>, StoreError> {
        let Some(blocks) = entry.blocks.filter(|blocks| slot < blocks.count) else { return Ok(None) };
        if !self.is_directory_sound()? {
            return Ok(None);
        }
        let mut bytes = [0; HASH_LEN];
        let offset = self.footer.block_hash_offset(blocks.first + u32::from(slot));
        self.read(offset, &mut bytes, Part::Directory)?;
        Ok(Some(BlockHash::from_bytes(bytes)))
    }

    /// Reads the hashes of a group's blocks, by slot; nothing for what is not a group, or where the directory is damaged.
    pub(crate) fn block_hashes(&self, entry: &Entry) -> Result<Vec<BlockHash>, StoreError> {
        let Some(blocks) = entry.blocks else { return Ok(Vec::new()) };
        if !self.is_directory_sound()? {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; usize::from(blocks.count) * HASH_LEN];
        self.read(self.footer.block_hash_offset(blocks.first), &mut bytes, Part::Directory)?;
        Ok(bytes.as_chunks::<HASH_LEN>().0.iter().map(|hash| BlockHash::from_bytes(*hash)).collect())
    }

    /// Reads an object's stored bytes into `payload`, which is as long as they are. They are not verified here.
    pub(crate) fn payload(&self, entry: &Entry, payload: &mut [u8]) -> Result<(), StoreError> {
        self.read(entry.offset, payload, Part::Object)
    }

    /// Reads and verifies the whole directory.
    pub(crate) fn directory(&self) -> Result<Directory, StoreError> {
        // Not longer than the file, as the footer's lengths add up to the file's.
        let mut bytes = vec![0; usize::try_from(self.footer.directory_len()).unwrap_or(0)];
        self.read(self.footer.directory_offset, &mut bytes, Part::Directory)?;
        Directory::decode(&bytes, &self.footer).map_err(|flaw| self.flawed(flaw))
    }

    /// Shares with other openings of this pack whether its directory is sound.
    fn share_soundness(&mut self, is_sound: &Arc<OnceLock<bool>>) {
        self.is_sound = Arc::clone(is_sound);
    }

    /// Says whether the directory is as it was written. It is read once for that.
    fn is_directory_sound(&self) -> Result<bool, StoreError> {
        if let Some(known) = self.is_sound.get() {
            return Ok(*known);
        }
        let is_sound = match self.directory() {
            Ok(_) => true,
            Err(error) if error.is_damage() => false,
            Err(error) => return Err(error),
        };
        Ok(*self.is_sound.get_or_init(|| is_sound))
    }

    /// Calls `each` with every entry and the hashes of its blocks.
    ///
    /// Of a damaged directory, entries that make no sense are left out: the others still lead to objects, which are
    /// verified by their own hashes. Their blocks have none, so no hashes are given of them.
    pub(crate) fn each_entry(
        &self,
        mut each: impl FnMut(EntryNo, &Entry, &[BlockHash]),
    ) -> Result<(), StoreError> {
        match self.directory() {
            Ok(directory) => {
                for (number, entry) in directory.numbered() {
                    each(number, entry, directory.block_hashes(entry));
                }
                return Ok(());
            }
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        for number in (0..self.footer.entries).map(EntryNo) {
            match self.entry(number) {
                Ok(Some(entry)) => each(number, &entry, &[]),
                Err(error) if !error.is_damage() => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads and verifies the header.
    pub(crate) fn check_header(&self) -> Result<(), StoreError> {
        let mut bytes = [0; PACK_HEADER_LEN];
        self.read(0, &mut bytes, Part::Header)?;
        check_pack_header(&bytes, self.footer.version).map_err(|flaw| self.flawed(flaw))
    }

    fn read(&self, offset: u64, buf: &mut [u8], what: Part) -> Result<(), StoreError> {
        self.file.read_at(offset, buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let end = offset + buf.len() as u64;
                self.flawed(Flaw::new(what, format!("the file ends before byte {end}")))
            }
            _ => match lost(&error) {
                Some(why) => self.flawed(Flaw::new(what, why)),
                None => self.shared.failed("read", &pack_name(&self.id), error),
            },
        })
    }

    fn flawed(&self, flaw: Flaw) -> StoreError {
        flaw.in_file(self.shared.storage.locate(&pack_name(&self.id)), PACK_VERSION)
    }
}

/// Opens packs and keeps a bounded number of them open.
pub(crate) struct OpenPacks {
    shared: Arc<Shared>,
    open: Cache<PackId, Arc<PackFile>>,
    /// Whether the directories are sound, of packs that were closed meanwhile too: finding out takes a read of all of it.
    sound: Mutex<HashMap<PackId, Arc<OnceLock<bool>>>>,
}

impl OpenPacks {
    pub(crate) fn new(shared: Arc<Shared>) -> OpenPacks {
        OpenPacks { shared, open: Cache::new(OPEN_PACKS), sound: Mutex::default() }
    }

    /// Returns a pack; none when it is not there. One that is open can be read on after it was removed.
    pub(crate) fn get(&self, id: PackId) -> Result<Option<Arc<PackFile>>, StoreError> {
        if let Some(pack) = self.open.get(&id) {
            return Ok(Some(pack));
        }
        let Some(mut pack) = PackFile::open(&self.shared, id)? else { return Ok(None) };
        let mut sound = self.sound.lock().unwrap_or_else(PoisonError::into_inner);
        pack.share_soundness(sound.entry(id).or_default());
        drop(sound);
        let pack = Arc::new(pack);
        self.open.insert(id, Arc::clone(&pack));
        Ok(Some(pack))
    }
}
