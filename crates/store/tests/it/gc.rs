//! Collections: what they free, what they keep, beside writers and readers, and through power loss.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmrewind_store::{
    BlockSize, CheckOptions, GcOptions, GcPlan, GcReport, ImageId, PAGE_SIZE, PackReason, Page, Store,
    StoreError, WriteOptions,
};
use vmrewind_testkit::storage::{
    CrashCase, CrashStorage, FaultStorage, OnPanic, Operation, SeededRandom, crash_seeds,
};

use crate::support::{folder_store, id, open, small_queue, space};

const PAGES: u64 = 64;
const NOW: Duration = Duration::ZERO;

/// Returns a page that no other number gives and that does not compress to nothing.
pub(crate) fn numbered(number: u64) -> Page {
    let mut page = [0x5a; PAGE_SIZE];
    let mut random = SeededRandom::new(number);
    for chunk in page[..1024].chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    page
}

/// Returns the attachment of an image, which no other has.
fn devices(image: &ImageId) -> Vec<u8> {
    image.as_str().repeat(100).into_bytes()
}

/// Writes an image of one space whose pages are those of `numbers`.
pub(crate) fn write(
    store: &Store,
    image: &ImageId,
    parent: Option<&ImageId>,
    numbers: impl IntoIterator<Item = u64>,
) -> Result<(), StoreError> {
    let options = WriteOptions { parent: parent.cloned(), ..small_queue() };
    let mut writer = store.create_image(image.clone(), options)?;
    let space = writer.add_space("ram", 4096 * PAGES, BlockSize::Page4K)?;
    for (page, number) in (0..).zip(numbers) {
        writer.put_page(space, page, &numbered(number))?;
    }
    writer.attach("devices", &devices(image))?;
    writer.finish().map(drop)
}

/// Checks that an image is whole and has these pages.
pub(crate) fn check(store: &Store, image: &ImageId, numbers: impl IntoIterator<Item = u64>) {
    let reader = store.open_image(image).expect("opened");
    reader.verify(&mut |_, _| ControlFlow::Continue(())).expect("whole");
    let ram = space(&reader, "ram");
    let mut found = [0; PAGE_SIZE];
    for (page, number) in (0..).zip(numbers) {
        reader.read_run(ram, page..page + 1, &mut found).expect("read");
        assert!(found == numbered(number), "page {page} of {image}");
    }
    assert_eq!(reader.attachment("devices").expect("read"), devices(image));
}

pub(crate) fn plan(store: &Store, remove: &[&str]) -> Result<GcPlan, StoreError> {
    let options = GcOptions { remove_images: remove.iter().map(|image| id(image)).collect() };
    store.plan_gc(&options, &mut |_| ControlFlow::Continue(()))
}

fn apply(store: &Store, plan: &GcPlan) -> Result<GcReport, StoreError> {
    store.gc(plan, NOW, &mut |_| ControlFlow::Continue(()))
}

pub(crate) fn collect(store: &Store) -> Result<GcReport, StoreError> {
    apply(store, &plan(store, &[])?)
}

// Deleting is worth nothing if the space never comes back; and nothing may go that another image shares.
#[test]
fn what_no_image_needs_is_freed_and_all_else_stays() {
    let (_folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), Some(&id("1")), (0..32).chain(100..132)).expect("written");
    write(&store, &id("3"), None, 200..264).expect("written");
    assert!(plan(&store, &[]).expect("planned").is_empty(), "all is needed");
    store.remove_image(&id("1")).expect("removed");
    store.remove_image(&id("3")).expect("removed");
    let before = store.stored_bytes().expect("asked");
    let plan = plan(&store, &[]).expect("planned");
    let reasons: Vec<PackReason> = plan.packs.iter().map(|step| step.reason).collect();
    assert!(reasons.contains(&PackReason::Unused), "{reasons:?}");
    assert_eq!(store.stored_bytes().expect("asked"), before, "a plan changes nothing");
    let report = apply(&store, &plan).expect("collected");
    let after = store.stored_bytes().expect("asked");
    assert!(report.freed_bytes > 60_000 && before - after > 60_000, "{report:?}, {before} to {after}");
    check(&store, &id("2"), (0..32).chain(100..132));
    assert_eq!(collect(&store).expect("again").removed_packs, 0);
    // What was freed can be stored again, and be found again.
    write(&store, &id("4"), Some(&id("2")), 200..264).expect("written");
    check(&store, &id("4"), 200..264);
}

// Packs that are mostly dead are written anew: their live pages must come out of the new pack, for a reader that is open,
// for one in a process that has not noticed, and as a parent.
#[test]
fn live_objects_move_and_are_found_by_everyone() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), Some(&id("1")), (0..1).chain(100..101)).expect("written");
    let elsewhere = open(vmrewind_store::DirStorage::new(folder.path()).expect("a folder"));
    check(&elsewhere, &id("2"), (0..1).chain(100..101));
    let reader = elsewhere.open_image(&id("2")).expect("opened");
    store.remove_image(&id("1")).expect("removed");
    let plan = plan(&store, &[]).expect("planned");
    assert_eq!(plan.packs.iter().filter(|step| step.reason == PackReason::MostlyUnused).count(), 1);
    let report = apply(&store, &plan).expect("collected");
    assert_eq!((report.new_packs, report.removed_packs, report.kept_packs), (1, 1, 0));
    reader.verify(&mut |_, _| ControlFlow::Continue(())).expect("found in the new pack");
    check(&elsewhere, &id("2"), (0..1).chain(100..101));
    write(&elsewhere, &id("3"), Some(&id("2")), 0..64).expect("written");
    check(&store, &id("3"), 0..64);
}

// An image that is finished between plan and removal may refer to what the plan called dead.
#[test]
fn what_an_image_that_came_meanwhile_needs_is_kept() {
    let (_folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    store.remove_image(&id("1")).expect("removed");
    let stale = plan(&store, &[]).expect("planned");
    assert_eq!(stale.packs.len(), 1);
    write(&store, &id("2"), None, 0..64).expect("written, out of what was dead");
    let report = apply(&store, &stale).expect("collected");
    assert_eq!((report.removed_packs, report.kept_packs), (0, 1));
    check(&store, &id("2"), 0..64);
}

// While an image is written it may refer to anything: nothing is removed, and the collection says so.
#[test]
fn nothing_is_removed_while_an_image_is_written() {
    let (_folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    store.remove_image(&id("1")).expect("removed");
    let mut writer = store.create_image(id("2"), small_queue()).expect("begun");
    let space = writer.add_space("ram", 4096 * PAGES, BlockSize::Page4K).expect("a space");
    let plan = plan(&store, &[]).expect("planned");
    assert!(plan.has_writers);
    let error = apply(&store, &plan).expect_err("refused");
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    for page in 0..64 {
        writer.put_page(space, page, &numbered(page)).expect("put");
    }
    writer.attach("devices", &devices(&id("2"))).expect("attached");
    writer.finish().expect("finished");
    apply(&store, &plan).expect("collected");
    check(&store, &id("2"), 0..64);
}

// A plan tells what was live where; another collection may have moved just that.
#[test]
fn a_plan_that_was_overtaken_is_refused() {
    let (_folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), Some(&id("1")), (0..1).chain(100..101)).expect("written");
    store.remove_image(&id("1")).expect("removed");
    let (first, second) = (plan(&store, &[]).expect("planned"), plan(&store, &[]).expect("planned"));
    apply(&store, &first).expect("collected");
    let error = apply(&store, &second).expect_err("refused");
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    check(&store, &id("2"), (0..1).chain(100..101));
}

// Images that nobody names go with the plan, unless somebody reads them; part files go when nobody holds them.
#[test]
fn unnamed_images_and_left_files_go() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), None, 100..164).expect("written");
    let reader = store.open_image(&id("2")).expect("opened");
    std::fs::write(folder.path().join("ab.image.part"), b"left").expect("written");
    let plan = plan(&store, &["1", "2"]).expect("planned");
    assert_eq!(plan.images, [id("1"), id("2")]);
    assert_eq!(plan.parts.len(), 1);
    let report = apply(&store, &plan).expect("collected");
    assert_eq!((report.images, report.kept_images), (vec![id("1")], vec![id("2")]));
    assert!(!folder.path().join("ab.image.part").exists());
    reader.verify(&mut |_, _| ControlFlow::Continue(())).expect("it is kept whole");
}

// Where a tree cannot be walked, what it needs is not known: to go on would finish the damage.
#[test]
fn damage_stops_a_collection() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    write(&store, &id("2"), None, 100..164).expect("written");
    let path = folder.path().join("2.image");
    let mut content = std::fs::read(&path).expect("read");
    content[300] ^= 1;
    std::fs::write(&path, content).expect("written");
    let error = plan(&store, &[]).expect_err("refused");
    assert!(error.is_damage() && error.to_string().contains("image 2"), "{error}");
    store.remove_image(&id("2")).expect("removed");
    assert!(collect(&store).expect("collected").removed_packs > 0);
    check(&store, &id("1"), 0..64);
}

// A good copy must never be given up for a damaged one.
#[test]
fn the_good_one_of_two_copies_is_kept() {
    for damaged in 0..2 {
        let (folder, store) = folder_store();
        write(&store, &id("1"), None, 0..64).expect("written");
        let pack = packs(folder.path()).remove(0);
        let aside = folder.path().join("aside");
        std::fs::rename(&pack, &aside).expect("moved");
        // Without the pack all is stored again, into a pack with one page more.
        std::fs::remove_file(folder.path().join("1.image")).expect("removed");
        let fresh = open(vmrewind_store::DirStorage::new(folder.path()).expect("a folder"));
        write(&fresh, &id("2"), None, 0..63).expect("written");
        std::fs::rename(&aside, &pack).expect("moved back");
        let victim = &packs(folder.path())[damaged];
        let mut content = std::fs::read(victim).expect("read");
        content[200] ^= 1;
        std::fs::write(victim, content).expect("written");
        let fresh = open(vmrewind_store::DirStorage::new(folder.path()).expect("a folder"));
        let _ = collect(&fresh).expect("collected");
        let _ = collect(&fresh).expect("collected again");
        check(&fresh, &id("2"), 0..63);
    }
}

// A pack that cannot be read, and that nothing leads to any more, would be called damage for ever.
#[test]
fn a_damaged_pack_that_nobody_needs_goes() {
    let (folder, store) = folder_store();
    write(&store, &id("1"), None, 0..64).expect("written");
    let pack = packs(folder.path()).remove(0);
    write(&store, &id("2"), None, 100..164).expect("written");
    let content = std::fs::read(&pack).expect("read");
    std::fs::write(&pack, &content[..content.len() - 1]).expect("written");
    let fresh = || open(vmrewind_store::DirStorage::new(folder.path()).expect("a folder"));
    assert!(plan(&fresh(), &[]).expect_err("it is needed").is_damage());
    store.remove_image(&id("1")).expect("removed");
    let report = collect(&fresh()).expect("collected");
    assert_eq!((report.removed_packs, pack.exists()), (1, false));
    assert!(report.freed_bytes > 0);
    check(&fresh(), &id("2"), 100..164);
}

// On a full disk nothing can be written anew; what is of no use at all goes all the same, and makes room for that.
#[test]
fn unused_packs_go_before_anything_is_written() {
    const ENOSPC: i32 = 28;
    let prepared = || {
        let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
        let store = open(storage.clone());
        write(&store, &id("1"), None, 0..64).expect("written");
        write(&store, &id("2"), None, 100..164).expect("written");
        write(&store, &id("3"), Some(&id("2")), 100..104).expect("written");
        store.remove_image(&id("1")).expect("removed");
        store.remove_image(&id("2")).expect("removed");
        let plan = plan(&store, &[]).expect("planned");
        assert_eq!(plan.packs.iter().filter(|step| step.live_bytes == 0).count(), 1, "{plan:?}");
        assert!(plan.packs.len() > 1, "{plan:?}");
        let before = storage.log().len();
        (storage, store, plan, before)
    };
    let (storage, store, all, before) = prepared();
    apply(&store, &all).expect("collected");
    let first_write = storage.log()[before..].iter().position(|done| *done == Operation::Write);
    let (storage, store, all, before) = prepared();
    storage.fail_at(before + first_write.expect("something is written"), ENOSPC);
    let error = apply(&store, &all).expect_err("the disk is full");
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    let left = plan(&store, &[]).expect("planned");
    assert!(left.packs.iter().all(|step| step.live_bytes > 0), "{left:?}");
    check(&store, &id("3"), 100..104);
    // There is room by now, and a full disk closes no store.
    collect(&store).expect("collected");
    assert!(plan(&store, &[]).expect("planned").is_empty(), "there is nothing left to do");
    check(&store, &id("3"), 100..104);
}

// A collection that died between naming its new packs and syncing the names leaves copies that can be found, and lost with
// the power. The next one, which takes them for the copies that count, makes them durable before the old ones go.
#[test]
fn copies_whose_names_nobody_synced_are_made_durable_before_the_others_go() {
    const EIO: i32 = 5;
    let prepared = |fault: Option<usize>| {
        let disk = CrashStorage::new();
        let storage = FaultStorage::new(Arc::new(disk.clone()));
        let store = open(storage.clone());
        write(&store, &id("1"), None, 0..64).expect("written");
        write(&store, &id("2"), Some(&id("1")), 0..2).expect("written");
        store.remove_image(&id("1")).expect("removed");
        let before = storage.log().len();
        if let Some(at) = fault {
            storage.fail_at(before + at, EIO);
        }
        (collect(&store), disk, storage.log().split_off(before))
    };
    let (sound, _, log) = prepared(None);
    assert!(sound.expect("collected").new_packs > 0, "something is written anew");
    let named = log.iter().position(|done| *done == Operation::Rename).expect("a new pack is named");
    let synced = named + log[named..].iter().position(|done| *done == Operation::SyncDir).expect("synced");
    for power in 0.. {
        let (died, disk, _) = prepared(Some(synced));
        died.expect_err("it ends there");
        disk.fail_power_at(disk.operations() + power);
        let collected = collect(&open(disk.clone()));
        for seed in crash_seeds(20) {
            let _told = OnPanic(CrashCase { operation: power, seed });
            check(&open(disk.after_crash(seed)), &id("2"), 0..2);
        }
        if let Ok(report) = collected {
            assert!(report.removed_packs > 0 && power > 3, "every operation was tried: {power}, {report:?}");
            break;
        }
    }
}

fn packs(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("listed");
    let mut packs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    packs.retain(|path| path.extension().is_some_and(|extension| extension == "pack"));
    packs.sort();
    packs
}

/// Writes, removes, collects: with packs that are dropped, rewritten and shared.
fn scenario(store: &Store) -> Result<(), StoreError> {
    write(store, &id("1"), None, 0..64)?;
    write(store, &id("2"), Some(&id("1")), (0..2).chain(100..102))?;
    write(store, &id("3"), None, 200..232)?;
    store.remove_image(&id("1"))?;
    collect(store)?;
    store.remove_image(&id("3"))?;
    write(store, &id("4"), Some(&id("2")), (1..3).chain(200..204))?;
    collect(store).map(drop)
}

/// The content of each image of the scenario.
fn content(image: &str) -> Vec<u64> {
    match image {
        "1" => (0..64).collect(),
        "2" => (0..2).chain(100..102).collect(),
        "3" => (200..232).collect(),
        _ => (1..3).chain(200..204).collect(),
    }
}

// Power loss at every step of collections, with other writes lost each time: every listed image is whole, and the next
// collection brings the store to the same size.
#[test]
fn a_crash_at_any_operation_of_a_collection_loses_nothing() {
    let reference = CrashStorage::new();
    scenario(&open(reference.clone())).expect("without a crash");
    let mut operations = 0;
    loop {
        let storage = CrashStorage::new();
        storage.fail_power_at(operations);
        let outcome = scenario(&open(storage.clone()));
        for seed in crash_seeds(8) {
            let found = storage.after_crash(seed);
            let at = CrashCase { operation: operations, seed };
            let _told = OnPanic(at);
            let store = open(found.clone());
            collect(&store).unwrap_or_else(|error| panic!("{at}: {error}"));
            for image in store.images().expect("listed") {
                check(&store, &image, content(image.as_str()));
            }
            let report = store.check(CheckOptions { read_data: true }, &mut |_| ControlFlow::Continue(()));
            assert!(report.expect("checked").damage.is_empty(), "{at}");
            assert!(plan(&store, &[]).expect("planned").is_empty(), "{at}: there is nothing left to do");
        }
        if outcome.is_ok() {
            break;
        }
        operations += 1;
    }
    assert!(operations > 60, "every operation was tried: {operations}");
}

// Several captures, restores and collections at once on one folder, each with a store of its own as processes have.
#[test]
fn collections_beside_writers_and_readers_lose_nothing() {
    let (folder, store) = folder_store();
    let fresh = || open(vmrewind_store::DirStorage::new(folder.path()).expect("a folder"));
    write(&store, &id("aa"), None, 0..64).expect("written");
    let is_over = AtomicBool::new(false);
    let collections = std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let store = fresh();
            let mut done = 0;
            while !is_over.load(Ordering::SeqCst) {
                let plan = plan(&store, &[]).expect("planned");
                match store.gc(&plan, Duration::from_secs(60), &mut |_| ControlFlow::Continue(())) {
                    Ok(_) => done += 1,
                    Err(error) => assert!(matches!(error, StoreError::Busy { .. }), "{error}"),
                }
            }
            done
        });
        let reader = scope.spawn(|| {
            let store = fresh();
            while !is_over.load(Ordering::SeqCst) {
                check(&store, &id("aa"), 0..64);
            }
        });
        let writer = |number: u64| {
            let store = fresh();
            move || {
                for round in 0..12 {
                    let image = id(&format!("{number}{round}"));
                    let from = number * 1000 + round * 16;
                    let pages = || (0..16).chain(from..from + 48);
                    write(&store, &image, Some(&id("aa")), pages()).expect("written");
                    check(&store, &image, pages());
                    store.remove_image(&image).expect("removed");
                }
            }
        };
        let writers: Vec<_> = [1, 2].map(|number| scope.spawn(writer(number))).into();
        for writer in writers {
            writer.join().expect("no panic");
        }
        is_over.store(true, Ordering::SeqCst);
        reader.join().expect("no panic");
        collector.join().expect("no panic")
    });
    assert!(collections > 0, "collections came through");
    check(&store, &id("aa"), 0..64);
    collect(&fresh()).expect("collected");
    check(&fresh(), &id("aa"), 0..64);
}
