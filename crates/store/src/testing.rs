//! What several unit tests need: stores in temporary folders, and packs with known content.

use std::path::PathBuf;
use std::sync::Arc;

use crate::block::BlockSize;
use crate::entry::{Encoding, EntryNo, ObjectKind};
use crate::hash::{BlockHash, ObjectHash, PackId};
use crate::pack::{Encoder, NewObject, PackWriter};
use crate::shared::{Latch, Shared};
use crate::storage::DirStorage;

/// A storage in a temporary folder.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    pub(crate) shared: Arc<Shared>,
}

impl Folder {
    pub(crate) fn new() -> Folder {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let storage = DirStorage::new(dir.path()).expect("a storage");
        Folder { dir, shared: Arc::new(Shared::new(Arc::new(storage))) }
    }

    /// Makes a latch that no write has closed.
    pub(crate) fn latch(&self) -> Arc<Latch> {
        Latch::new(Arc::clone(&self.shared))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the names that end so, in order.
    pub(crate) fn names(&self, suffix: &str) -> Vec<String> {
        let mut names = self.shared.storage.list().expect("listed");
        names.retain(|name| name.ends_with(suffix));
        names.sort_unstable();
        names
    }

    /// Flips a bit of a file, counted from the end where `at` is negative.
    pub(crate) fn flip(&self, name: &str, at: i64) {
        let path = self.path(name);
        let mut content = std::fs::read(&path).expect("read");
        let len = i64::try_from(content.len()).expect("small");
        let at = usize::try_from(if at < 0 { len + at } else { at }).expect("inside");
        content[at] ^= 0x10;
        std::fs::write(&path, content).expect("written");
    }

    /// Writes a pack of groups of two blocks each, one for each tag.
    pub(crate) fn pack_of_groups(&self, tags: std::ops::Range<u32>) -> PackId {
        let writer = PackWriter::begin(self.latch(), "test.pack.part").expect("begun");
        for tag in tags {
            append_group(&writer, tag);
        }
        writer.finish().expect("finished").expect("not empty").id
    }
}

/// Returns a block that no other tag and slot give, half of it incompressible.
pub(crate) fn block(tag: u32, slot: u8) -> Vec<u8> {
    let mut block = vec![0x5a; BlockSize::Page4K.bytes()];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&tag.to_le_bytes()).update(&[slot]);
    hasher.finalize_xof().fill(&mut block[..2048]);
    block
}

/// Returns the bytes of a group of two blocks.
pub(crate) fn group(tag: u32) -> Vec<u8> {
    [block(tag, 0), block(tag, 1)].concat()
}

/// Returns the hash of [`group`].
pub(crate) fn group_hash(tag: u32) -> ObjectHash {
    ObjectHash::of(&group(tag))
}

/// Returns the hash of [`block`].
pub(crate) fn block_hash(tag: u32, slot: u8) -> BlockHash {
    BlockHash::of(&block(tag, slot))
}

/// Appends the group of that tag.
pub(crate) fn append_group(writer: &PackWriter, tag: u32) -> EntryNo {
    let raw = group(tag);
    let mut encoder = Encoder::new();
    let (encoding, payload) = encoder.encode(Encoding::Lz4, &raw);
    let blocks = [block_hash(tag, 0), block_hash(tag, 1)];
    let object = NewObject {
        hash: ObjectHash::of(&raw),
        kind: ObjectKind::Group,
        encoding,
        raw_len: u32::try_from(raw.len()).expect("small"),
        payload,
        blocks: Some((BlockSize::Page4K, &blocks)),
    };
    writer.append(object).expect("appended")
}

/// Appends bytes as an object that is not a group.
pub(crate) fn append_plain(writer: &PackWriter, kind: ObjectKind, raw: &[u8]) -> EntryNo {
    let mut encoder = Encoder::new();
    let (encoding, payload) = encoder.encode(Encoding::Zstd, raw);
    let raw_len = u32::try_from(raw.len()).expect("small");
    let hash = ObjectHash::of(raw);
    writer.append(NewObject { hash, kind, encoding, raw_len, payload, blocks: None }).expect("appended")
}
