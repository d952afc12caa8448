//! Look-ups over several segments; segments lost, damaged, stale, merged.

use std::collections::HashSet;
use std::sync::Arc;

use super::Index;
use super::upkeep::segments_to_merge;
use crate::entry::ObjectKind;
use crate::hash::PackId;
use crate::shared::pack_name;
use crate::testing::{Folder, block_hash, group_hash};

fn index(folder: &Folder) -> Index {
    Index::new(Arc::clone(&folder.shared))
}

/// Checks that all tags are found, in one of `packs`, and no other.
fn check(index: &Index, packs: &[PackId], tags: std::ops::Range<u32>) {
    for tag in tags.clone() {
        let place =
            index.find_object(&group_hash(tag), ObjectKind::Group).expect("looked up").expect("found");
        assert!(packs.contains(&place.pack), "group {tag}");
        assert_eq!(place.entry.hash, group_hash(tag));
        for slot in 0..2 {
            let block = index.find_block(&block_hash(tag, slot)).expect("looked up").expect("found");
            assert_eq!((block.group, block.slot), (place, slot));
        }
    }
    let other = tags.end;
    assert_eq!(index.find_object(&group_hash(other), ObjectKind::Group).expect("looked up"), None);
    assert_eq!(index.find_object(&group_hash(tags.start), ObjectKind::Node).expect("looked up"), None);
    assert_eq!(index.find_block(&block_hash(other, 0)).expect("looked up"), None);
}

// What is written must be found, by the process that wrote it and by others that reload.
#[test]
fn packs_are_found_where_they_were_added_and_elsewhere() {
    let folder = Folder::new();
    let (here, elsewhere) = (index(&folder), index(&folder));
    check(&elsewhere, &[], 0..0);
    let mut packs = Vec::new();
    for n in 0..10 {
        packs.push(folder.pack_of_groups(n * 10..(n + 1) * 10));
        here.add_packs(&packs[packs.len() - 1..]).expect("added");
        check(&here, &packs, 0..(n + 1) * 10);
    }
    check(&elsewhere, &[], 0..0);
    elsewhere.reload().expect("reloaded");
    check(&elsewhere, &packs, 0..100);
    check(&index(&folder), &packs, 0..100);
    let segments = folder.names(".index").len();
    assert!((1..=6).contains(&segments), "{segments} segments after ten additions");
    assert_eq!(folder.names(".part"), [] as [&str; 0]);
}

// The index is a cache: lost or damaged in any byte, it is made again, and answers are right all the same.
#[test]
fn a_lost_or_damaged_segment_is_made_again() {
    let folder = Folder::new();
    let pack = folder.pack_of_groups(0..3);
    check(&index(&folder), &[pack], 0..3);
    let names = folder.names(".index");
    let [name] = &names[..] else { panic!("{names:?}") };
    let pristine = std::fs::read(folder.path(name)).expect("read");
    std::fs::remove_file(folder.path(name)).expect("removed");
    check(&index(&folder), &[pack], 0..3);
    assert_eq!(folder.names(".index"), names, "the same packs give the same segment");
    for at in 0..pristine.len() {
        let mut content = pristine.clone();
        content[at] ^= 4;
        std::fs::write(folder.path(name), content).expect("written");
        let index = index(&folder);
        // A wrong entry may hide an object: who needs it makes the index anew.
        if (0..3)
            .any(|tag| index.find_object(&group_hash(tag), ObjectKind::Group).expect("looked up").is_none())
        {
            assert!(index.rebuild(index.was_rebuilt()).expect("rebuilt"));
        }
        for tag in 0..3 {
            let found = index.find_object(&group_hash(tag), ObjectKind::Group).expect("looked up");
            assert_eq!(found.map(|place| place.entry.hash), Some(group_hash(tag)), "byte {at}");
            if let Some(block) = index.find_block(&block_hash(tag, 1)).expect("looked up") {
                assert_eq!((block.group.entry.hash, block.slot), (group_hash(tag), 1), "byte {at}");
            }
        }
    }
}

// A writer that refers to a pack that gc removed would make an image that lacks something.
#[test]
fn removed_packs_are_not_found_after_a_reload() {
    let folder = Folder::new();
    let (gone, kept) = (folder.pack_of_groups(0..5), folder.pack_of_groups(3..8));
    let index = index(&folder);
    check(&index, &[gone, kept], 0..8);
    std::fs::remove_file(folder.path(&pack_name(&gone))).expect("removed");
    index.reload().expect("reloaded");
    assert_eq!(index.packs().expect("listed"), [kept]);
    check(&index, &[kept], 3..8);
    for tag in 0..3 {
        assert_eq!(index.find_object(&group_hash(tag), ObjectKind::Group).expect("looked up"), None);
        assert_eq!(index.find_block(&block_hash(tag, 0)).expect("looked up"), None);
    }
}

// A store on a full or read-only disk must still be readable.
#[test]
fn without_room_for_segments_look_ups_work() {
    let folder = Folder::new();
    let pack = folder.pack_of_groups(0..3);
    let part = folder.shared.temporary_name("");
    let (tag, last) = part.split_once('-').expect("a tag and a number");
    let last: u64 = last.parse().expect("a number");
    // A folder in the way of every name that this opening of the store could take next.
    for number in last + 1..last + 100 {
        std::fs::create_dir(folder.path(&format!("{tag}-{number}.index.part"))).expect("made");
    }
    let index = index(&folder);
    check(&index, &[pack], 0..3);
    assert_eq!(folder.names(".index"), [] as [&str; 0]);
    index.reload().expect("reloaded");
    check(&index, &[pack], 0..3);
}

// Look-ups cost one read for each segment: their number must not grow with the age of the store.
#[test]
fn segments_stay_few() {
    let mut sizes: Vec<u64> = Vec::new();
    for n in 0..10_000_u64 {
        sizes.push(1 + n * 7919 % 1000);
        sizes.sort_unstable();
        let count = segments_to_merge(&sizes);
        let merged = sizes.drain(..count).sum::<u64>();
        sizes.extend(Some(merged).filter(|merged| *merged > 0));
        sizes.sort_unstable();
        assert!(sizes.len() <= 10, "{sizes:?}");
    }
    assert_eq!(segments_to_merge(&[]), 0);
    assert_eq!(segments_to_merge(&[5]), 0);
    assert_eq!(segments_to_merge(&[1; 6]), 0, "they are few");
    assert_eq!(segments_to_merge(&[1; 7]), 7);
    assert_eq!(segments_to_merge(&[1, 5, 30, 150, 750, 3000, 20_000]), 6);
}

// Large tables are read by bucket: every entry must be in the one that is looked at, at any size of the fanout.
#[test]
fn every_entry_is_in_its_bucket() {
    let folder = Folder::new();
    let packs: HashSet<PackId> = (0..3).map(|n| folder.pack_of_groups(n * 400..(n + 1) * 400)).collect();
    let index = index(&folder);
    let packs: Vec<PackId> = packs.into_iter().collect();
    check(&index, &packs, 0..1200);
}
