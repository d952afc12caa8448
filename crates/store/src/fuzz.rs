//! Entry points for fuzzers: any bytes may come in, nothing may panic or allocate beyond their length.

use crate::format::filter::Filter;
use crate::format::image::ImageFile;
use crate::format::node::{Interior, Leaf};
use crate::format::pack::{
    Directory, ENTRY_LEN, PACK_FOOTER_LEN, PACK_HEADER_LEN, PACK_VERSION, PackFooter, check_pack_header,
};
use crate::format::segment::{IndexEntry, Meta, SEGMENT_FOOTER_LEN, SegmentFooter, Table};
use crate::hash::{HASH_LEN, PackId};

/// Takes `file` for the file of an image, with the hash at its end made right so that mutated fields are looked at.
///
/// Returns the number of spaces and attachments, or nothing when the bytes are not an image.
pub fn image(file: &[u8]) -> Option<usize> {
    let (body, _) = file.split_last_chunk::<32>()?;
    let sealed = [body, blake3::hash(body).as_bytes()].concat();
    let found = ImageFile::decode(&sealed).ok()?;
    assert_eq!(found.encode(), sealed, "one content has one form");
    Some(found.spaces.len() + found.attachments.len())
}

/// Takes `file` for a whole pack, and once more with its hashes made right. Returns the number of objects found.
pub fn pack(file: &[u8]) -> Option<usize> {
    let (header, _) = file.split_first_chunk::<PACK_HEADER_LEN>()?;
    let (rest, footer_bytes) = file.split_last_chunk::<PACK_FOOTER_LEN>()?;
    let footer = PackFooter::decode(footer_bytes, file.len() as u64).ok()?;
    let _ = check_pack_header(header, footer.version);
    let directory = rest.get(usize::try_from(footer.directory_offset).ok()?..)?;
    pack_directory(directory, footer.entries, footer.directory_offset)
}

/// Takes `raw` for a directory with the right hash, of that many entries, behind payloads that end at `offset`.
///
/// Unlike [`pack`], this gets mutated directories past their hash. Returns the number of objects found.
pub fn pack_directory(raw: &[u8], entries: u32, offset: u64) -> Option<usize> {
    let hashes = raw.len().checked_sub((entries as usize).checked_mul(ENTRY_LEN)?)?;
    let blocks = u32::try_from(hashes / HASH_LEN).ok()?;
    let id = PackId::of(raw);
    let footer = PackFooter { version: PACK_VERSION, directory_offset: offset, entries, blocks, id };
    let directory = Directory::decode(raw, &footer).ok()?;
    for (_, entry) in directory.numbered() {
        let blocks = entry.blocks.map_or(0, |blocks| usize::from(blocks.count));
        assert_eq!(directory.block_hashes(entry).len(), blocks, "a hash for each block");
        assert!(entry.offset + u64::from(entry.stored_len) <= offset, "payloads are before the directory");
    }
    assert_eq!(directory.encode(), raw, "one content has one form");
    Some(directory.entries.len())
}

/// Takes `raw` for a node of an image's tree. Returns the number of blocks or children found.
pub fn node(raw: &[u8]) -> Option<usize> {
    if let Ok(leaf) = Leaf::decode(raw) {
        let by_lookup = (0..1024).filter(|&block| leaf.lookup(block).is_some()).count();
        assert_eq!(leaf.blocks().count(), by_lookup, "lists and look-ups agree");
        assert_eq!(leaf.encode(), raw, "one content has one form");
        return Some(by_lookup);
    }
    let node = Interior::decode(raw).ok()?;
    assert_eq!(node.encode(), raw, "one content has one form");
    Some(node.children.len())
}

/// Takes `file` for a whole index segment: decodes footer and tables, and looks up `prefix`.
///
/// Returns the number of entries in the buckets that are looked at.
pub fn segment(file: &[u8], prefix: u64) -> Option<usize> {
    let (rest, footer_bytes) = file.split_last_chunk::<SEGMENT_FOOTER_LEN>()?;
    let footer = SegmentFooter::decode(footer_bytes, file.len() as u64).ok()?;
    let filter_at = usize::try_from(footer.filter_offset()).ok()?;
    let (filter, meta) =
        rest.get(filter_at..)?.split_at_checked(usize::try_from(footer.filter_len()).ok()?)?;
    Filter::decode(filter, &footer.filter_hash).ok()?.may_have(prefix);
    segment_tables(meta, footer, prefix)
}

/// Takes `raw` for the tables of a segment with the right hash. Returns the same as [`segment`].
pub fn segment_meta(
    raw: &[u8],
    [objects, blocks, packs]: [u32; 3],
    bits: [u8; 2],
    prefix: u64,
) -> Option<usize> {
    let [object_bits, block_bits] = bits.map(|bits| bits % 25);
    let meta_hash = *blake3::hash(raw).as_bytes();
    let footer = SegmentFooter {
        objects,
        blocks,
        packs,
        object_bits,
        block_bits,
        filter_lines: 0,
        filter_hash: [0; HASH_LEN],
        entries_hash: [0; HASH_LEN],
        meta_hash,
    };
    segment_tables(raw, footer, prefix)
}

fn segment_tables(raw: &[u8], footer: SegmentFooter, prefix: u64) -> Option<usize> {
    let meta = Meta::decode(raw, &footer).ok()?;
    let buckets =
        [(Table::Objects, meta.objects.bucket(prefix)), (Table::Blocks, meta.blocks.bucket(prefix))];
    let ends = [footer.objects, footer.blocks];
    for ((table, bucket), end) in buckets.iter().zip(ends) {
        assert!(bucket.start <= bucket.end && bucket.end <= end, "a bucket inside of {table:?}");
    }
    assert_eq!(meta.encode(), raw, "one content has one form");
    let entry = IndexEntry { prefix, pack: footer.packs, place: footer.objects };
    assert_eq!(IndexEntry::decode(entry.encode()), entry, "entries come back");
    Some(buckets.iter().map(|(_, bucket)| bucket.len()).sum())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::block::BlockSize;
    use crate::index::Index;
    use crate::shared::pack_name;
    use crate::testing::{Folder, group_hash};

    /// A pack and a segment as they are written.
    fn seeds() -> [Vec<u8>; 2] {
        let folder = Folder::new();
        let pack = folder.pack_of_groups(0..5);
        Index::new(Arc::clone(&folder.shared)).reload().expect("loaded");
        [pack_name(&pack), folder.names(".index").remove(0)]
            .map(|name| std::fs::read(folder.path(&name)).expect("read"))
    }

    fn mutate(seed: &[u8], changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        bytes
    }

    // The corpus of the fuzz targets must get through the decoders, or they would test nothing.
    #[test]
    fn seeds_are_accepted() {
        let [pack_file, segment_file] = seeds();
        assert_eq!(pack(&pack_file), Some(5));
        assert!(segment(&segment_file, group_hash(0).prefix()) >= Some(1));
        let leaf = Leaf::from_blocks(BlockSize::Block64K, [(1, group_hash(0), 3), (7, group_hash(1), 0)]);
        assert_eq!(node(&leaf.encode()), Some(2));
        assert_eq!(node(&Interior { height: 1, children: vec![(9, group_hash(0))] }.encode()), Some(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        // Damaged files come from disks: no bytes may panic, whether hashes stop them or not.
        #[test]
        fn mutated_files_do_not_panic(changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6)) {
            let [pack_file, segment_file] = seeds();
            let mutated = mutate(&pack_file, &changes);
            pack(&mutated);
            let directory_at = pack_file.len() - PACK_FOOTER_LEN - 5 * ENTRY_LEN - 10 * HASH_LEN;
            let directory = &pack_file[directory_at..pack_file.len() - PACK_FOOTER_LEN];
            pack_directory(&mutate(directory, &changes), 5, directory_at as u64);
            let mutated = mutate(&segment_file, &changes);
            segment(&mutated, 0);
            let meta_at = 16 + 15 * 16 + 64;
            let meta = &segment_file[meta_at..segment_file.len() - SEGMENT_FOOTER_LEN];
            segment_meta(&mutate(meta, &changes), [5, 10, 1], [0, 0], u64::MAX);
            let leaf = Leaf::from_blocks(BlockSize::Page4K, (0..40).map(|n| (n * 3, group_hash(0), 200)));
            node(&mutate(&leaf.encode(), &changes));
        }
    }
}
