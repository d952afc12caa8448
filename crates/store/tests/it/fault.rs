//! Failing operations: the right error comes out, the store latches, nothing is written afterwards.

use std::sync::Arc;

use vmrewind_store::{StoreError, WriteOptions};
use vmrewind_testkit::storage::{CrashStorage, FaultStorage, Operation};

use crate::support::{check_sample, id, open, page, write_sample};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Returns the operations that writing one sample image takes.
fn operations_of_a_sample() -> Vec<Operation> {
    let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
    write_sample(&open(storage.clone()), &id("1")).expect("no faults");
    storage.log()
}

// Whichever write fails: the caller hears of it, the part file goes, nothing else is written, the store stays shut until
// it is opened again. Earlier images can be read all the time.
#[test]
fn the_first_failed_write_latches_the_store() {
    let operations = operations_of_a_sample();
    assert_eq!(operations.first(), Some(&Operation::Create));
    assert_eq!(operations[operations.len() - 3..], [Operation::Sync, Operation::Rename, Operation::SyncDir]);
    for errno in [ENOSPC, EIO] {
        for at in 0..operations.len() {
            let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
            let store = open(storage.clone());
            write_sample(&store, &id("1")).expect("no fault yet");
            let fault = storage.log().len() + at;
            storage.fail_at(fault, errno);
            let error = write_sample(&store, &id("2")).expect_err("an operation fails");
            match errno {
                ENOSPC => assert!(matches!(error, StoreError::NoSpace { .. }), "operation {at}: {error}"),
                _ => assert!(matches!(error, StoreError::Io { .. }), "operation {at}: {error}"),
            }
            let after = storage.log().split_off(fault + 1);
            assert!(after.iter().all(|done| *done == Operation::Remove), "operation {at}: {after:?}");
            assert!(store.latched() && store.clone().latched());
            assert!(matches!(write_sample(&store, &id("3")), Err(StoreError::Latched)), "operation {at}");
            assert_eq!(store.images().expect("listed"), [id("1")], "operation {at}");
            check_sample(&store.open_image(&id("1")).expect("opened"));
            let reopened = open(storage);
            assert_eq!(reopened.sweep(|_| false).expect("swept").removed, [], "nothing was left");
            write_sample(&reopened, &id("2")).expect("the store works again");
        }
    }
}

// The thread's error reaches the caller while it is still putting pages, not only at the end of a capture of gigabytes.
#[test]
fn an_error_behind_the_queue_surfaces_at_a_later_put() {
    let storage = FaultStorage::new(Arc::new(CrashStorage::new()));
    let store = open(storage.clone());
    let options = WriteOptions { parent: None, queue_bytes: 0 };
    let mut writer = store.create_image(id("1"), options).expect("begun");
    let ram = writer.add_space("ram", 4096 << 20).expect("a space");
    storage.fail_at(storage.log().len() + 2, ENOSPC);
    let error = (0..1 << 20).find_map(|number| writer.put_page(ram, number, &page(1)).err());
    let error = error.expect("long before the last page");
    assert!(matches!(error, StoreError::NoSpace { op: "write", .. }), "{error}");
    assert!(error.to_string().contains("1.image.part"), "{error}");
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
    let ram = other.add_space("ram", 4096).expect("a space");
    storage.fail_at(storage.log().len() + 3, EIO);
    write_sample(&store, &id("1")).expect_err("an operation fails");
    assert!(matches!(other.put_page(ram, 0, &page(1)), Err(StoreError::Latched)));
    drop(other);
    assert!(open(storage).images().expect("listed").is_empty());
}
