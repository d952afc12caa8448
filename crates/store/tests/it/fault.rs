//! Failing operations: the right error comes out, nothing is promised that is not so, and what may go on goes on.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmrewind_store::{BlockSize, ImageWriter, Storage, Store, StoreError, WriteOptions};
use vmrewind_testkit::storage::{CrashStorage, FaultStorage, Operation, crash_seeds};

use crate::support::{check_sample, id, open, page, small_queue, write_sample};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Returns the operations that writing one sample image takes.
fn operations_of_a_sample() -> Vec<Operation> {
    let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
    write_sample(&open(storage.clone()), &id("1")).expect("no faults");
    storage.log()
}

/// The number of operations after which the image is durable, of those of a sample.
fn until_whole(operations: &[Operation]) -> usize {
    operations.iter().rposition(|done| *done == Operation::SyncDir).expect("names are synced") + 1
}

/// Checks every image of a store, and that the power may fail now: those of `promised` are there afterwards, whole.
fn check_durable(disk: &CrashStorage, promised: &[&str]) {
    for seed in crash_seeds(20) {
        let store = open(disk.after_crash(seed));
        for image in promised {
            check_sample(
                &store.open_image(&id(image)).unwrap_or_else(|error| panic!("seed {seed}: {error}")),
            );
        }
        for image in store.images().expect("listed") {
            let reader = store.open_image(&image).expect("opened");
            let verified = reader.verify(&mut |_, _| ControlFlow::Continue(()));
            assert!(verified.is_ok(), "seed {seed}, image {image}: {verified:?}");
        }
    }
}

// Whichever write fails before the image is whole: the caller hears of it, the part files go, nothing else is written.
// A storage that fails is not written to again until the store is opened anew; earlier images can be read all the time.
#[test]
fn the_first_failed_write_closes_the_store() {
    let operations = operations_of_a_sample();
    assert_eq!(operations.first(), Some(&Operation::Create));
    let whole = until_whole(&operations);
    assert_eq!(operations[whole - 3..whole], [Operation::Sync, Operation::Rename, Operation::SyncDir]);
    for at in 0..whole {
        let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
        storage.fail_at(at, EIO);
        let store = open(storage.clone());
        let error = write_sample(&store, &id("2")).expect_err("an operation fails");
        assert!(matches!(error, StoreError::Io { .. }), "operation {at}: {error}");
        let after = storage.log().split_off(at + 1);
        assert!(after.iter().all(|done| *done == Operation::Remove), "operation {at}: {after:?}");
        assert!(store.latched() && store.clone().latched());
        assert!(matches!(write_sample(&store, &id("3")), Err(StoreError::Latched)), "operation {at}");
        assert!(store.images().expect("listed").is_empty(), "operation {at}");
        let reopened = open(storage);
        assert_eq!(reopened.sweep(|_| false).expect("swept").removed, [], "nothing was left");
        write_sample(&reopened, &id("2")).expect("the store works again");
        check_sample(&reopened.open_image(&id("2")).expect("opened"));
    }
}

// A disk that is full for a moment costs the image that is being written, at whichever operation, and no later one: a
// server that had to be restarted for that would be no server. What the later one promises is durable. Only where the sync
// of the names failed nobody knows what is durable, for want of room or not, and all is over.
#[test]
fn a_full_disk_closes_the_writer_and_not_the_store() {
    let operations = operations_of_a_sample();
    for (at, operation) in operations[..until_whole(&operations)].iter().enumerate() {
        let disk = CrashStorage::new();
        let storage = FaultStorage::new(Arc::new(disk.clone()));
        let store = open(storage.clone());
        storage.fail_at(at, ENOSPC);
        let error = write_sample(&store, &id("2")).expect_err("an operation fails");
        assert!(matches!(error, StoreError::NoSpace { .. }), "operation {at}: {error}");
        let after = storage.log().split_off(at + 1);
        assert!(after.iter().all(|done| *done == Operation::Remove), "operation {at}: {after:?}");
        assert!(store.images().expect("listed").is_empty(), "operation {at}");
        let again = write_sample(&store, &id("3"));
        if *operation == Operation::SyncDir {
            assert!(store.latched() && matches!(again, Err(StoreError::Latched)), "operation {at}");
            continue;
        }
        assert!(!store.latched(), "operation {at}");
        again.unwrap_or_else(|error| panic!("operation {at}: {error}"));
        write_sample(&store, &id("2")).expect("the id is free");
        check_durable(&disk, &["2", "3"]);
    }
}

// The disk stays full for a while: every attempt fails, none leaves anything that takes room from the next, and once there
// is room the same store works, without being opened again.
#[test]
fn a_store_works_again_once_there_is_room() {
    let whole = until_whole(&operations_of_a_sample());
    for at in 0..whole {
        let disk = CrashStorage::new();
        let storage = FaultStorage::new(Arc::new(disk.clone()));
        let store = open(storage.clone());
        write_sample(&store, &id("1")).expect("there is room");
        store.remove_image(&id("1")).expect("removed");
        storage.fill_at(storage.log().len() + at);
        for image in ["2", "3"] {
            if let Err(error) = write_sample(&store, &id(image)) {
                assert!(matches!(error, StoreError::NoSpace { .. }), "from operation {at} on: {error}");
                let names = storage.list().expect("listed");
                assert!(
                    !names.iter().any(|name| name.ends_with(".part")),
                    "from operation {at} on: {names:?}"
                );
            }
        }
        assert!(write_sample(&store, &id("4")).is_err(), "the disk is full by now");
        storage.make_room();
        write_sample(&store, &id("5")).expect("there is room again");
        check_durable(&disk, &["5"]);
    }
}

// Once the image is whole only the index is written, which is a cache: its failure is not the image's.
#[test]
fn a_failure_to_write_the_index_harms_nobody() {
    let operations = operations_of_a_sample();
    let whole = until_whole(&operations);
    assert!(whole < operations.len(), "a segment is written");
    for at in whole..operations.len() {
        let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
        storage.fail_at(at, EIO);
        write_sample(&open(storage.clone()), &id("1")).expect("whole");
        let reopened = open(storage);
        check_sample(&reopened.open_image(&id("1")).expect("opened"));
    }
}

// The thread's error reaches the caller while it is still putting pages, not only at the end of a capture of gigabytes.
#[test]
fn an_error_behind_the_queue_surfaces_at_a_later_put() {
    let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
    let store = open(storage.clone());
    let options = small_queue();
    let mut writer = store.create_image(id("1"), options).expect("begun");
    let ram = writer.add_space("ram", 4096 << 20, BlockSize::Page4K).expect("a space");
    // After the pack's creation and its header.
    storage.fail_at(storage.log().len() + 2, ENOSPC);
    let error = (0..1_u32 << 20).find_map(|number| {
        let mut content = page(1);
        content[64..68].copy_from_slice(&number.to_le_bytes());
        writer.put_page(ram, u64::from(number), &content).err()
    });
    let error = error.expect("long before the last page");
    assert!(matches!(error, StoreError::NoSpace { op: "write", .. }), "{error}");
    assert!(error.to_string().contains("1-0.pack.part"), "{error}");
    let again = writer.put_page(ram, 0, &page(1));
    assert!(matches!(again, Err(StoreError::Latched)), "the error is told once");
    assert!(matches!(writer.finish(), Err(StoreError::Latched)));
    assert!(open(storage).images().expect("listed").is_empty());
}

/// Begins an image of one page, which is not written before its end.
fn begin(store: &Store, image: &str) -> ImageWriter {
    let mut writer = store.create_image(id(image), WriteOptions::default()).expect("begun");
    let ram = writer.add_space("ram", 4096, BlockSize::Page4K).expect("a space");
    writer.put_page(ram, 0, &page(1)).expect("put");
    writer
}

// Two captures at once, and the storage fails: the other one stops as well, since the same disk holds both. Where only
// room was wanting it goes on: what it has left to write may well fit.
#[test]
fn a_failure_stops_the_other_writers_and_a_full_disk_does_not() {
    for (errno, stops) in [(EIO, true), (ENOSPC, false)] {
        let disk = CrashStorage::new();
        let storage = FaultStorage::new(Arc::new(disk.clone()));
        let store = open(storage.clone());
        let other = begin(&store, "2");
        storage.fail_at(storage.log().len() + 3, errno);
        write_sample(&store, &id("1")).expect_err("an operation fails");
        let finished = other.finish();
        assert_eq!(matches!(finished, Err(StoreError::Latched)), stops, "{finished:?}");
        assert_eq!(finished.is_err(), stops);
        let listed = open(disk.after_crash(0)).images().expect("listed");
        assert_eq!(listed.contains(&id("2")), !stops);
    }
}

// The system tells one caller only that the names could not be synced. Whoever that is, nobody else may say later that
// what they named is durable: not by a sync of theirs, which is said to have worked.
#[test]
fn a_failed_sync_of_the_names_is_told_to_all_that_relied_on_it() {
    for errno in [EIO, ENOSPC] {
        let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
        let store = open(storage.clone());
        write_sample(&store, &id("1")).expect("no faults");
        let other = begin(&store, "2");
        // A removal takes two operations: the name, and the sync.
        storage.fail_at(storage.log().len() + 1, errno);
        store.remove_image(&id("1")).expect_err("the sync fails");
        assert!(matches!(other.finish(), Err(StoreError::Latched)));
        assert!(matches!(store.remove_image(&id("1")), Err(StoreError::Latched)), "nor is it gone for good");
        let now = storage.log().len();
        assert!(matches!(write_sample(&store, &id("3")), Err(StoreError::Latched)));
        assert_eq!(storage.log().len(), now, "nothing is written");
        assert!(store.images().expect("listed").is_empty());
    }
}

// A writer that died between naming its packs and syncing the names leaves packs that can be found, and lost with the
// power. Whoever refers to them makes them durable first: at whatever operation the power fails, a listed image is whole.
#[test]
fn packs_whose_names_nobody_synced_are_made_durable_before_an_image_refers_to_them() {
    let operations = operations_of_a_sample();
    let naming = operations.iter().position(|done| *done == Operation::SyncDir).expect("names are synced");
    for power in 0.. {
        let disk = CrashStorage::new();
        let storage = FaultStorage::new(Arc::new(disk.clone()));
        storage.fail_at(naming, EIO);
        write_sample(&open(storage), &id("1")).expect_err("it ends there");
        disk.fail_power_at(disk.operations() + power);
        let written = write_sample(&open(disk.clone()), &id("2"));
        check_durable(&disk, if written.is_ok() { &["2"] } else { &[] });
        if written.is_ok() {
            assert!(power > 5, "every operation was tried: {power}");
            break;
        }
    }
}
