//! Objects read through packs that are damaged, doubled, removed and replaced.

use std::sync::{Arc, Barrier};

use super::Objects;
use crate::entry::ObjectKind;
use crate::error::StoreError;
use crate::pack::PackWriter;
use crate::shared::pack_name;
use crate::testing::{Folder, append_plain, block_hash, group, group_hash};

fn objects(folder: &Folder) -> Objects {
    Objects::new(Arc::clone(&folder.shared))
}

fn read(objects: &Objects, tag: u32) -> Result<Arc<[u8]>, StoreError> {
    objects.read(&group_hash(tag), ObjectKind::Group)
}

// The plain case, cached and not, with all kinds.
#[test]
fn objects_are_read_by_hash_and_kind() {
    let folder = Folder::new();
    folder.pack_of_groups(0..4);
    let writer = PackWriter::begin(folder.latch(), "test.pack.part").expect("begun");
    append_plain(&writer, ObjectKind::Blob, &group(2));
    append_plain(&writer, ObjectKind::Node, &[9; 5000]);
    writer.finish().expect("finished");
    let objects = objects(&folder);
    for _ in 0..2 {
        for tag in 0..4 {
            assert_eq!(read(&objects, tag).expect("read")[..], group(tag));
            let hashes = objects.block_hashes(&group_hash(tag)).expect("read");
            assert_eq!(hashes[..], [block_hash(tag, 0), block_hash(tag, 1)]);
        }
    }
    let mut raw = vec![1; 100_000];
    objects.read_into(&group_hash(2), ObjectKind::Blob, &mut raw).expect("read");
    assert_eq!(raw, group(2));
    let missing = objects.read(&group_hash(2), ObjectKind::Node).expect_err("it is a blob and a group");
    assert!(matches!(missing, StoreError::MissingObject { kind: ObjectKind::Node, .. }), "{missing}");
    assert!(missing.is_damage());
}

// A flipped bit in any payload is found, named with pack and object, and harms nothing else.
#[test]
fn a_flipped_bit_in_a_payload_is_named() {
    let folder = Folder::new();
    let pack = folder.pack_of_groups(0..3);
    folder.flip(&pack_name(&pack), 64 + 100);
    let objects = objects(&folder);
    let error = read(&objects, 0).expect_err("damaged");
    assert!(
        matches!(error, StoreError::DamagedObject { object, pack: named, .. }
        if object == group_hash(0) && named == pack),
        "{error}"
    );
    assert_eq!(read(&objects, 1).expect("read")[..], group(1));
    assert_eq!(read(&objects, 2).expect("read")[..], group(2));
}

// Two writers can store the same object at the same time: either copy will do.
#[test]
fn a_second_copy_stands_in_for_a_damaged_one() {
    for damaged in 0..2 {
        let folder = Folder::new();
        let packs = [folder.pack_of_groups(0..2), folder.pack_of_groups(0..3)];
        folder.flip(&pack_name(&packs[damaged]), 64 + 100);
        let objects = objects(&folder);
        assert_eq!(read(&objects, 0).expect("read")[..], group(0));
    }
}

// A reader of an old view must find what gc has moved to another pack, and what another process has added.
#[test]
fn objects_that_moved_are_found() {
    let folder = Folder::new();
    let old = folder.pack_of_groups(0..2);
    let objects = objects(&folder);
    assert_eq!(read(&objects, 0).expect("read")[..], group(0));
    folder.pack_of_groups(0..3);
    std::fs::remove_file(folder.path(&pack_name(&old))).expect("removed");
    assert_eq!(read(&objects, 2).expect("added by others")[..], group(2));
    assert_eq!(read(&objects, 1).expect("moved by others")[..], group(1));
}

// A segment whose entries are damaged hides objects: they must not be called missing.
#[test]
fn a_damaged_index_is_not_taken_for_missing_data() {
    let folder = Folder::new();
    folder.pack_of_groups(0..2);
    assert_eq!(read(&objects(&folder), 0).expect("read")[..], group(0));
    let names = folder.names(".index");
    for at in 16..16 + 2 * 16 {
        folder.flip(&names[0], at);
    }
    for tag in 0..2 {
        assert_eq!(read(&objects(&folder), tag).expect("read")[..], group(tag));
    }
    assert_eq!(folder.names(".index"), names, "made anew from the packs");
}

// The same where several threads miss objects at once: who comes second waits for the index that the first one makes.
#[test]
fn a_damaged_index_is_mended_for_all_threads() {
    const TAGS: u32 = 8;
    for _ in 0..20 {
        let folder = Folder::new();
        folder.pack_of_groups(0..TAGS);
        assert_eq!(read(&objects(&folder), 0).expect("read")[..], group(0));
        for at in 16..16 + i64::from(TAGS) * 16 {
            folder.flip(&folder.names(".index")[0], at);
        }
        let objects = objects(&folder);
        let begin = Barrier::new(TAGS as usize);
        std::thread::scope(|scope| {
            for tag in 0..TAGS {
                let (objects, begin) = (&objects, &begin);
                scope.spawn(move || {
                    begin.wait();
                    assert_eq!(read(objects, tag).expect("read")[..], group(tag));
                });
            }
        });
    }
}

// Blocks are taken for equal by the hashes of a directory: from one that is damaged a guest would get another page.
#[test]
fn a_damaged_directory_gives_no_hashes_of_blocks() {
    let folder = Folder::new();
    let pack = folder.pack_of_groups(0..3);
    // The last block's hash lies before the footer, of 128 bytes.
    folder.flip(&pack_name(&pack), -129);
    let objects = objects(&folder);
    assert_eq!(read(&objects, 0).expect("read")[..], group(0));
    assert!(objects.block_hashes(&group_hash(0)).expect("asked").is_empty());
    assert_eq!(objects.index().find_block(&block_hash(0, 0)).expect("asked"), None);
}
