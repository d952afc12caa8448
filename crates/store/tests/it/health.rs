//! `check` and `usage`: what they find, which images it touches, what images take.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmrewind_store::{CheckOptions, CheckReport, DirStorage, ImageId, Store};
use vmrewind_testkit::storage::FaultStorage;

use crate::gc::{check as check_pages, write};
use crate::support::{folder_store, id, open};

fn check(store: &Store, read_data: bool) -> CheckReport {
    store.check(CheckOptions { read_data }, &mut |_| ControlFlow::Continue(())).expect("checked")
}

fn fresh(folder: &Path) -> Store {
    open(DirStorage::new(folder).expect("a folder"))
}

/// Returns the images of each finding.
fn touched(report: &CheckReport) -> Vec<Vec<ImageId>> {
    report.damage.iter().map(|damage| damage.images.clone()).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("listed");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut content = std::fs::read(path).expect("read");
    content[at] ^= 4;
    std::fs::write(path, content).expect("written");
}

// The answer to "which of my snapshots are still good" has to be exact: image 2 shares the damaged page, 3 does not.
#[test]
fn damage_is_traced_to_exactly_the_images_that_need_it() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    let pack = files(folder.path(), "pack").remove(0);
    write(&store, &id("2"), Some(&id("1")), (0..64).map(|n| if n == 63 { 500 } else { n })).expect("written");
    write(&store, &id("3"), None, 200..264).expect("written");
    let report = check(&store, true);
    assert_eq!((report.images, report.packs), (3, 3));
    assert!(report.damage.is_empty() && report.objects > 10 && report.read_bytes > 100_000, "{report:?}");
    // In one of the groups of the first image.
    flip(&pack, 30_000);
    assert_eq!(touched(&check(&store, false)), [] as [Vec<ImageId>; 0], "structure is whole");
    let report = check(&store, true);
    assert_eq!(touched(&report), [[id("1"), id("2")]]);
    assert!(report.damage[0].error.is_damage());
    store.remove_image(&id("1")).expect("removed");
    assert_eq!(touched(&check(&fresh(folder.path()), true)), [[id("2")]]);
    store.remove_image(&id("2")).expect("removed");
    assert_eq!(touched(&check(&fresh(folder.path()), true)), [[]], "nobody needs it");
}

// The guest still has the page, so a capture after the damage can be whole: it must not refer to the copy that is lost. Once
// the damaged image is gone, so is the damage.
#[test]
fn what_is_known_to_be_damaged_is_stored_anew() {
    for (has_parent, in_group) in [(true, true), (false, true), (true, false), (false, false)] {
        let (folder, store) = folder_store();
        write(&store, &id("1"), None, 0..64).expect("written");
        let pack = files(folder.path(), "pack").remove(0);
        write(&store, &id("2"), None, 200..264).expect("written");
        // The last objects of a pack are nodes and blobs.
        flip(&pack, if in_group { 30_000 } else { objects_end(&pack) - 20 });
        assert_eq!(touched(&check(&fresh(folder.path()), true)), [[id("1")]]);
        assert_eq!(files(folder.path(), "bad").len(), 1);
        let one = id("1");
        write(&fresh(folder.path()), &id("3"), has_parent.then_some(&one), 0..64).expect("written");
        check_pages(&fresh(folder.path()), &id("3"), 0..64);
        let later = fresh(folder.path());
        later.remove_image(&id("1")).expect("removed");
        crate::gc::collect(&later).expect("collected");
        assert_eq!(files(folder.path(), "bad").len(), 0);
        assert!(check(&fresh(folder.path()), true).damage.is_empty());
        check_pages(&fresh(folder.path()), &id("2"), 200..264);
        check_pages(&fresh(folder.path()), &id("3"), 0..64);
    }
}

// A disk can fail to read for a while only: then the mark goes.
#[test]
fn a_mark_goes_once_the_copy_is_read() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    let pack = files(folder.path(), "pack").remove(0);
    flip(&pack, 30_000);
    assert!(
        fresh(folder.path())
            .open_image(&id("1"))
            .expect("opened")
            .verify(&mut |_, _| ControlFlow::Continue(()))
            .is_err()
    );
    assert_eq!(files(folder.path(), "bad").len(), 1, "whoever finds damage marks it");
    flip(&pack, 30_000);
    assert!(check(&fresh(folder.path()), true).damage.is_empty());
    assert_eq!(files(folder.path(), "bad").len(), 0);
}

/// Where the objects of a pack end and its directory begins.
fn objects_end(pack: &Path) -> usize {
    let content = std::fs::read(pack).expect("read");
    let at = content.len() - 128 + 16;
    usize::try_from(u64::from_le_bytes(*content[at..].first_chunk().expect("a footer"))).expect("small")
}

// A lost pack is found without reading data, and is one finding, not one for each of its objects.
#[test]
fn a_lost_or_cut_pack_is_found_at_once() {
    for cut in [false, true] {
        let (folder, store) = folder_store();
        write(&store, &id("1"), None, 0..64).expect("written");
        let pack = files(folder.path(), "pack").remove(0);
        write(&store, &id("2"), None, 200..264).expect("written");
        if cut {
            let content = std::fs::read(&pack).expect("read");
            std::fs::write(&pack, &content[..content.len() - 1]).expect("written");
        } else {
            std::fs::remove_file(&pack).expect("removed");
        }
        let report = check(&fresh(folder.path()), false);
        let images: Vec<_> = touched(&report).concat();
        assert_eq!(images, [id("1")], "{report:?}");
        assert_eq!(report.damage.len(), if cut { 2 } else { 1 }, "the pack itself, and what is missing");
        assert!(report.damage.iter().any(|damage| damage.objects >= 1));
    }
}

// What a failing disk, or a file system with checksums, says of bytes that it has lost is an error of reading: nothing else
// comes of most damage there is. Other failures to read say nothing of the data.
#[test]
fn what_the_storage_has_lost_is_damage() {
    const EIO: i32 = 5;
    const EMFILE: i32 = 24;
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    let pack = files(folder.path(), "pack").remove(0);
    write(&store, &id("2"), None, 200..264).expect("written");
    let name = pack.file_name().and_then(|name| name.to_str()).expect("a name");
    let faulty = |name: &str, errno| {
        let storage = FaultStorage::new(Arc::new(DirStorage::new(folder.path()).expect("a folder")));
        storage.fail_reads_of(name, errno);
        open(storage)
    };
    for read_data in [false, true] {
        let report = check(&faulty(name, EIO), read_data);
        assert_eq!(touched(&report).concat(), [id("1")], "{report:?}");
        assert_eq!(touched(&check(&faulty("2.image", EIO), read_data)), [[id("2")]]);
        let options = CheckOptions { read_data };
        let error = faulty(name, EMFILE).check(options, &mut |_| ControlFlow::Continue(()));
        assert!(!error.expect_err("cannot go on").is_damage());
    }
    check_pages(&faulty(name, EIO), &id("2"), 200..264);
}

// A store of many captures has more packs than a process may open files.
#[test]
fn more_packs_than_open_files_are_checked() {
    const PACKS: u64 = 200;
    let (folder, store) = folder_store();
    for number in 0..PACKS {
        write(&store, &id(&format!("{number:03x}")), None, number..number + 1).expect("written");
    }
    let limit = rustix::process::Rlimit { current: Some(PACKS - 20), maximum: Some(PACKS - 20) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a lower limit");
    let report = check(&fresh(folder.path()), true);
    assert_eq!((report.packs, report.damage.len()), (PACKS, 0));
}

// A node of a tree is shared like a page, and hides many pages. What is compressed can have several forms: a flip that makes
// one of them another is no damage.
#[test]
fn damage_in_every_byte_of_a_pack_is_found() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..3).expect("written");
    let pack = files(folder.path(), "pack").remove(0);
    let pristine = std::fs::read(&pack).expect("read");
    let objects_end = objects_end(&pack);
    let mut harmless = 0;
    for at in (0..pristine.len()).step_by(7) {
        flip(&pack, at);
        let report = check(&fresh(folder.path()), true);
        if report.damage.is_empty() {
            assert!((64..objects_end).contains(&at), "byte {at} of {}", pristine.len());
            check_pages(&fresh(folder.path()), &id("1"), 0..3);
            harmless += 1;
        }
        std::fs::write(&pack, &pristine).expect("written");
    }
    assert!(check(&fresh(folder.path()), true).damage.is_empty());
    assert!(harmless * 20 < pristine.len() / 7, "{harmless}");
}

// An image's own file is all that leads to its pages.
#[test]
fn a_damaged_image_file_touches_that_image_only() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), Some(&id("1")), 0..64).expect("written");
    flip(&folder.path().join("2.image"), 40);
    assert_eq!(touched(&check(&store, false)), [[id("2")]]);
}

// The index is a cache: a damaged one is mended, and not called damage.
#[test]
fn a_damaged_index_is_mended() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    let segments = files(folder.path(), "index");
    for at in [0, 20, 300] {
        for segment in &segments {
            flip(segment, at);
        }
        assert!(check(&fresh(folder.path()), true).damage.is_empty(), "byte {at}");
    }
    crate::gc::check(&fresh(folder.path()), &id("1"), 0..64);
}

// What a deletion would free is a promise: exclusive bytes go with the image, shared ones stay.
#[test]
fn usage_tells_what_is_shared() {
    let (_folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), Some(&id("1")), 0..64).expect("written");
    write(&store, &id("3"), None, 200..264).expect("written");
    let sets = |sets: &[&[&str]]| {
        let sets: Vec<Vec<ImageId>> =
            sets.iter().map(|set| set.iter().map(|image| id(image)).collect()).collect();
        store.usage().of(&sets).expect("asked")
    };
    let single = sets(&[&["1"], &["2"], &["3"]]);
    assert!(single.iter().all(|usage| usage.logical_bytes == 64 * 4096 + 100));
    assert!(
        single[0].exclusive_bytes < 1000 && single[1].exclusive_bytes < 1000,
        "only their files: {single:?}"
    );
    assert!(single[0].shared_bytes > 64 * 1000 && single[0].shared_bytes == single[1].shared_bytes);
    assert!(single[2].exclusive_bytes > 64 * 1000, "{single:?}");
    assert_eq!(single[2].shared_bytes, 0, "{single:?}");
    let together = sets(&[&["1", "2"], &["3"]]);
    assert!(together[0].exclusive_bytes > single[0].shared_bytes - 2000, "{together:?}");
    assert_eq!(together[1], single[2]);
    assert_eq!(sets(&[&["9"]])[0].logical_bytes, 0, "an image that is not there");
    // And the promise is kept.
    store.remove_image(&id("3")).expect("removed");
    let plan = crate::gc::plan(&store, &[]).expect("planned");
    let promised = single[2].exclusive_bytes;
    assert!(plan.freed_bytes + 1000 > promised, "{promised} promised, {} freed", plan.freed_bytes);
}
