//! Power loss at every operation of writing and removing images.

use std::ops::{ControlFlow, Range};

use vmrewind_store::{ImageId, Store, StoreError};
use vmrewind_testkit::storage::{CrashCase, CrashStorage, OnPanic, crash_seeds};

use crate::support::{check_sample, id, open, write_sample};

/// Different things that are lost, for each moment of the crash.
const SEEDS: u64 = 40;

/// What was promised to the caller before the power failed.
#[derive(Debug, Default)]
struct Promises {
    finished: Vec<ImageId>,
    removed: Vec<ImageId>,
}

/// Writes two images, removes the first, sweeps; ends early when the power fails.
fn scenario(store: &Store, promises: &mut Promises) -> Result<(), StoreError> {
    for image in [id("1"), id("2")] {
        write_sample(store, &image)?;
        promises.finished.push(image);
    }
    // From here on the image may be there or not.
    promises.finished.retain(|image| *image != id("1"));
    store.remove_image(&id("1"))?;
    promises.removed.push(id("1"));
    store.sweep(|_| false).map(|_| ())
}

/// Lists what is wrong with the store that the machine finds.
fn violations(found: &CrashStorage, promises: &Promises) -> Vec<String> {
    let mut wrong = Vec::new();
    let store = open(found.clone());
    let listed = store.images().expect("listed");
    for image in &listed {
        match store.open_image(image) {
            Ok(reader) => match reader.verify(&mut |_, _| ControlFlow::Continue(())) {
                Ok(()) => check_sample(&reader),
                Err(error) => wrong.push(format!("listed, but {error}")),
            },
            Err(error) => wrong.push(format!("listed, but {error}")),
        }
    }
    wrong.extend(
        promises.finished.iter().filter(|image| !listed.contains(image)).map(|i| format!("{i} lost")),
    );
    wrong.extend(
        promises.removed.iter().filter(|image| listed.contains(image)).map(|i| format!("{i} is back")),
    );
    store.sweep(|_| false).expect("swept");
    let names = vmrewind_store::Storage::list(found).expect("listed");
    wrong.extend(
        names.into_iter().filter(|name| name.ends_with(".part")).map(|name| format!("{name} stayed")),
    );
    wrong
}

/// Runs the scenario with the power failing at each operation in turn; returns all violations.
fn crash_everywhere(seeds: &Range<u64>, prepare: impl Fn(&CrashStorage)) -> (u64, Vec<String>) {
    let mut wrong = Vec::new();
    for operation in 0.. {
        let storage = CrashStorage::new();
        prepare(&storage);
        storage.fail_power_at(operation);
        let mut promises = Promises::default();
        let outcome = scenario(&open(storage.clone()), &mut promises);
        for seed in seeds.clone() {
            let case = CrashCase { operation, seed };
            let _told = OnPanic(case);
            let found = violations(&storage.after_crash(seed), &promises);
            wrong.extend(found.into_iter().map(|what| format!("{case}: {what}")));
        }
        if outcome.is_ok() {
            assert_eq!(promises.removed, [id("1")], "the scenario went to its end");
            return (operation, wrong);
        }
    }
    unreachable!("the scenario has an end")
}

// Invariant: a listed image is whole, a finished one is listed, a removed one stays away, and a sweep clears the rest.
#[test]
fn a_crash_at_any_operation_keeps_the_promises() {
    let (operations, wrong) = crash_everywhere(&crash_seeds(SEEDS), |_| {});
    assert!(operations > 20, "every operation was tried: {operations}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// The test above is worth something only if it notices when syncs are missing.
#[test]
fn a_disk_that_ignores_syncs_is_noticed() {
    let (_, wrong) = crash_everywhere(&(0..SEEDS), CrashStorage::let_syncs_lie);
    assert!(wrong.iter().any(|what| what.contains("listed, but")), "unsynced content shows");
    assert!(wrong.iter().any(|what| what.contains("lost")), "an unsynced name shows");
}
