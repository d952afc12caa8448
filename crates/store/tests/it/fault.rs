//! Failing operations: the right error comes out, the store latches, nothing is written afterwards.

use std::sync::Arc;

use vmrewind_store::{BlockSize, StoreError, WriteOptions};
use vmrewind_testkit::storage::{CrashStorage, FaultStorage, Operation};

use crate::support::{check_sample, id, open, page, small_queue, write_sample};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Returns the operations that writing one sample image takes.
fn operations_of_a_sample() -> Vec<Operation> {
    let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
    write_sample(&open(storage.clone()), &id("1")).expect("no faults");
    storage.log()
}

// Whichever write fails before the image is whole: the caller hears of it, the part files go, nothing else is written, the
// store stays shut until it is opened again. Earlier images can be read all the time.
#[test]
fn the_first_failed_write_latches_the_store() {
    let operations = operations_of_a_sample();
    assert_eq!(operations.first(), Some(&Operation::Create));
    let whole =
        operations.iter().rposition(|done| *done == Operation::SyncDir).expect("names are synced") + 1;
    assert_eq!(operations[whole - 3..whole], [Operation::Sync, Operation::Rename, Operation::SyncDir]);
    for errno in [ENOSPC, EIO] {
        for at in 0..whole {
            let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
            storage.fail_at(at, errno);
            let store = open(storage.clone());
            let error = write_sample(&store, &id("2")).expect_err("an operation fails");
            match errno {
                ENOSPC => assert!(matches!(error, StoreError::NoSpace { .. }), "operation {at}: {error}"),
                _ => assert!(matches!(error, StoreError::Io { .. }), "operation {at}: {error}"),
            }
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
}

// Once the image is whole only the index is written, which is a cache: its failure is not the image's.
#[test]
fn a_failure_to_write_the_index_harms_nobody() {
    let operations = operations_of_a_sample();
    let whole =
        operations.iter().rposition(|done| *done == Operation::SyncDir).expect("names are synced") + 1;
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

// Two captures at once: after a failure of one, the other stops as well, since the same disk holds both.
#[test]
fn a_failure_stops_the_other_writers() {
    let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
    let store = open(storage.clone());
    let mut other = store.create_image(id("2"), WriteOptions::default()).expect("begun");
    let ram = other.add_space("ram", 4096, BlockSize::Page4K).expect("a space");
    storage.fail_at(storage.log().len() + 3, EIO);
    write_sample(&store, &id("1")).expect_err("an operation fails");
    assert!(matches!(other.put_page(ram, 0, &page(1)), Err(StoreError::Latched)));
    drop(other);
    assert!(open(storage).images().expect("listed").is_empty());
}
