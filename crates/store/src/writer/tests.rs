//! What can only be seen from inside: how scattered images become, what is kept in memory, what goes through the index.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{ImageWriter, Limits};
use crate::block::{BlockSize, PAGE_SIZE, Page};
use crate::format::node::LEAF_BLOCKS;
use crate::id::ImageId;
use crate::reader::ImageReader;
use crate::storage::DirStorage;
use crate::store::Store;
use crate::writer::WriteOptions;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let storage = DirStorage::new(folder.path()).expect("a folder");
    (folder, Store::open(Arc::new(storage)).expect("opened"))
}

fn id(number: u64) -> ImageId {
    ImageId::from_bytes(u128::from(number).to_be_bytes())
}

/// Returns a page of that content; half of it does not compress.
fn page(content: u64) -> Page {
    let mut page = [7; PAGE_SIZE];
    blake3::Hasher::new().update(&content.to_le_bytes()).finalize_xof().fill(&mut page[..2048]);
    page
}

/// Writes an image of these contents, of which 0 is zero.
fn write(store: &Store, number: u64, parent: Option<u64>, contents: &[u64], limits: Limits) -> ImageWriter {
    let options = WriteOptions { parent: parent.map(id), ..WriteOptions::default() };
    let mut writer = store.create_within(id(number), options, limits).expect("begun");
    let ram =
        writer.add_space("ram", (contents.len() * PAGE_SIZE) as u64, BlockSize::Page4K).expect("a space");
    for (at, content) in (0..).zip(contents) {
        match content {
            0 => writer.put_zero(ram, at).expect("put"),
            content => writer.put_page(ram, at, &page(*content)).expect("put"),
        }
    }
    writer
}

fn check(reader: &ImageReader, contents: &[u64]) {
    let space = reader.spaces()[0].clone();
    let mut found: HashMap<u64, Page> = HashMap::new();
    let end: ControlFlow<()> = reader
        .stream(space.index, 0..space.blocks(), |blocks, data| {
            found.extend(blocks.zip(data.as_chunks::<PAGE_SIZE>().0.iter().copied()));
            ControlFlow::Continue(())
        })
        .expect("readable");
    assert!(end.is_continue());
    for (at, content) in (0..).zip(contents) {
        let expected = (*content != 0).then(|| page(*content));
        assert!(found.remove(&at) == expected, "page {at}");
    }
    assert!(found.is_empty());
}

/// Pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) % bound
    }
}

/// Returns how many groups are read for an image, and how many its blocks would fill.
fn groups(reader: &ImageReader) -> (usize, usize) {
    let space = reader.spaces()[0].index;
    let (mut used, mut needed) = (0, 0);
    for found in reader.leaves(space).expect("leaves") {
        let leaf = reader.load_leaf(space, found).expect("a leaf");
        used += leaf.groups.len();
        needed += leaf.blocks().count().div_ceil(16);
    }
    (used, needed)
}

// A VM that is captured every hour for days must not restore ever more slowly: after a hundred generations a bulk read
// expands less than twice the groups of a fresh image. And the price is bounded: what is stored anew.
#[test]
fn a_hundred_generations_do_not_scatter_an_image() {
    let (_folder, store) = store();
    let mut random = Random(5);
    let mut contents: Vec<u64> = (1..=4 * LEAF_BLOCKS).collect();
    let mut next = contents.len() as u64 + 1;
    let mut changed = 0;
    for generation in 0..100_u64 {
        let parent = generation.checked_sub(1);
        write(&store, generation, parent, &contents, Limits::default()).finish().expect("finished");
        let reader = store.open_image(&id(generation)).expect("opened");
        let (used, needed) = groups(&reader);
        assert!(used * 10 <= needed * 19, "generation {generation}: {used} groups, {needed} needed");
        if generation == 99 {
            check(&reader, &contents);
        }
        for _ in 0..contents.len() / 20 {
            let at = random.below(contents.len() as u64);
            contents[usize::try_from(at).expect("small")] = next;
            next += 1;
            changed += 1;
        }
    }
    let stored: u64 =
        (0..100).map(|number| store.open_image(&id(number)).expect("opened").summary().stored_bytes).sum();
    // Half of each page compresses; the rest is nodes, and what was stored anew: less than twice what changed.
    let first = contents.len() * PAGE_SIZE / 2;
    let budget = first + changed * PAGE_SIZE / 2 * 3;
    assert!(stored < budget as u64, "{stored} of {budget}");
}

// The first capture after a reboot, or of another VM with the same programs: all is stored already, and lies elsewhere.
// What lies together is referred to, also from another place; what is scattered is not, however much is so.
#[test]
fn what_is_found_elsewhere_does_not_scatter_an_image() {
    let before: Vec<u64> = (1..=4 * LEAF_BLOCKS).collect();
    let mut random = Random(6);
    let mut shuffled = before.clone();
    for at in (1..shuffled.len()).rev() {
        shuffled.swap(at, usize::try_from(random.below(at as u64 + 1)).expect("small"));
    }
    // Stretches that begin anywhere in a group, as those of a guest do.
    let moved: Vec<u64> = before.chunks(53).rev().flatten().copied().collect();
    // About 2 KiB of each page are stored, and 5 bytes in a leaf.
    let (all, hardly_any) = (before.len() as u64 * 2048, before.len() as u64 * 20);
    for parent in [None, Some(0)] {
        for (contents, stored) in [(&moved, 0..hardly_any), (&shuffled, all * 3 / 4..all * 5 / 4)] {
            let (_folder, store) = store();
            write(&store, 0, None, &before, Limits::default()).finish().expect("finished");
            let summary = write(&store, 1, parent, contents, Limits::default()).finish().expect("finished");
            assert!(stored.contains(&summary.stored_bytes), "{stored:?}: {summary:?}");
            assert_eq!(summary.new_bytes, 0, "nothing of it is new");
            let reader = store.open_image(&id(1)).expect("opened");
            let (used, needed) = groups(&reader);
            assert!(used * 10 <= needed * 21, "{used} groups, {needed} needed");
            check(&reader, contents);
        }
    }
}

// A capture of many GiB does not keep all it has stored in memory: it goes through the index, and is found there.
#[test]
fn what_is_remembered_is_bounded_and_found_in_the_index_instead() {
    let (folder, store) = store();
    let limits = Limits { max_seen: 100, pack_bytes: 64 << 10 };
    let mut random = Random(9);
    let contents: Vec<u64> = (0..6000).map(|_| random.below(2500)).collect();
    let writer = write(&store, 1, None, &contents, limits);
    let (work, seen) = (Arc::clone(&writer.work), Arc::clone(&writer.work.seen));
    let summary = writer.finish().expect("finished");
    drop(work);
    // What is in the packs that are open, wait to be sealed or are being sealed is remembered beyond the limit: about
    // 32 blocks each.
    assert!(seen.len() <= 100 + 6 * 40, "{} blocks are remembered", seen.len());
    let distinct = contents.iter().filter(|content| **content != 0).collect::<std::collections::HashSet<_>>();
    assert_eq!(summary.new_bytes, (distinct.len() * PAGE_SIZE) as u64);
    let packs = std::fs::read_dir(folder.path())
        .expect("listed")
        .filter(|entry| {
            entry.as_ref().expect("an entry").path().extension().is_some_and(|kind| kind == "pack")
        })
        .count();
    assert!(packs > 20, "{packs}");
    // Hardly anything was stored twice: half of each page, and some for nodes and directories.
    assert!(summary.stored_bytes < summary.new_bytes * 6 / 10, "{summary:?}");
    check(&store.open_image(&id(1)).expect("opened"), &contents);
}

// The same content at the same place costs nothing but the image's file, even where all of it is scattered by deduplication.
#[test]
fn an_unchanged_image_costs_its_file() {
    let (_folder, store) = store();
    let contents: Vec<u64> = (0..3000).map(|n| n % 1900).collect();
    write(&store, 1, None, &contents, Limits::default()).finish().expect("finished");
    let again = write(&store, 2, Some(1), &contents, Limits::default()).finish().expect("finished");
    assert_eq!(again.new_bytes, 0);
    assert!(again.stored_bytes < 500, "{again:?}");
    // Without the parent at hand all is found in the index.
    let lone = write(&store, 3, None, &contents, Limits::default()).finish().expect("finished");
    assert_eq!(lone.new_bytes, 0);
    check(&store.open_image(&id(3)).expect("opened"), &contents);
}
