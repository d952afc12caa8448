//! Captures onto a disk that fails, or fills: in the store, and in what the engine itself writes.

use std::sync::Arc;

use vmrewind_testkit::fault_disk::FaultDisk;
use vmrewind_testkit::storage::FaultStorage;

use super::*;
use crate::hint::Hint;

const EIO: i32 = 5;

/// A VM that runs, whose store is on a storage that can fail from now on.
fn on_fault_storage() -> (Bench, FaultStorage, usize) {
    let mut faults = None;
    let bench = Bench::running(Setup::default(), Patience::default()).with_storage(|disk| {
        let storage = FaultStorage::new(disk);
        faults = Some(storage.clone());
        Arc::new(storage)
    });
    let faults = faults.unwrap();
    let before = faults.log().len();
    (bench, faults, before)
}

/// Guards what is listed: a store that can't write, sync or publish at any step gives no snapshot or a whole one, and the
/// guest goes on.
#[test]
fn a_store_that_fails_at_any_step() {
    for pass in 0.. {
        let (bench, faults, before) = on_fault_storage();
        faults.fail_at(before + pass, EIO);
        let result = bench.operation().snapshot_create(&snapshot());
        let steps = faults.log();
        let case = format!("{:?} at {pass}: {:?}", steps.get(before + pass), result.as_ref().map(|_| ()));
        assert_eq!(bench.vm().fake.run_state(), "running", "{case}");
        bench.recover(&case);
        bench.check(&case);
        assert_eq!(bench.snapshots().len(), usize::from(result.is_ok()), "{case}");
        if steps.len() <= before + pass {
            assert!(pass > 8 && result.is_ok(), "{case}");
            break;
        }
    }
}

/// Guards a store that fills: the capture says what would help, nothing of it takes room any more, and once there is room
/// the same process can capture again.
#[test]
fn a_store_that_fills_at_any_step() {
    for pass in 0.. {
        let (bench, faults, before) = on_fault_storage();
        faults.fill_at(before + pass);
        let result = bench.operation().snapshot_create(&snapshot());
        let case = format!("full after {pass}: {result:?}");
        if let Err(error) = &result {
            assert_eq!(error.hint(), Some(&Hint::FreeSpaceOfRoot), "{case}");
        }
        bench.check(&case);
        faults.make_room();
        let again = bench.operation().snapshot_create(&snapshot());
        again.unwrap_or_else(|error| panic!("{case}: then {error}: {:?}", error.causes()));
        bench.check(&case);
        if result.is_ok() {
            assert!(pass > 5, "{case}");
            break;
        }
    }
}

/// A VM that runs, whose records and layers are on a disk that can fail from now on.
fn on_fault_disk() -> (Bench, FaultDisk) {
    let disk = FaultDisk::default();
    let bench = Bench::running(Setup::default(), Patience::default()).with_disk(Arc::new(disk.clone()));
    (bench, disk)
}

/// Does a capture on a disk that fails in some way after so many steps. Says whether it did.
fn fails_after(pass: usize, how: &str, fail: impl Fn(&FaultDisk, usize), request: &SnapshotCreate) -> bool {
    let (bench, disk) = on_fault_disk();
    let before = disk.steps().len();
    fail(&disk, pass);
    let result = bench.operation().snapshot_create(request);
    let step = disk.steps().get(before + pass).cloned();
    let case = format!("{how} at {pass}, {step:?}: {:?}", result.as_ref().map(|_| ()));
    assert_eq!(bench.vm().fake.run_state(), "running", "{case}");
    disk.heal();
    bench.recover(&case);
    bench.check(&case);
    if result.is_ok() {
        assert_eq!(bench.snapshots(), ["snap-1"], "{case}");
    }
    step.is_some()
}

/// Guards a guest and its disks against a disk that fails once at any step, or is full from any step on: the guest runs, and
/// once the disk is well the next command finds a VM that is as before or has a whole snapshot.
#[test]
fn a_disk_that_fails_at_any_step() {
    for request in [snapshot(), SnapshotCreate { disk_only: true, ..snapshot() }] {
        let errors =
            (0..).take_while(|pass| fails_after(*pass, "EIO", |disk, at| disk.fail_after(at, EIO), &request));
        assert!(errors.count() > 10, "the disk has hardly a part in it");
        let full = (0..).take_while(|pass| fails_after(*pass, "full", FaultDisk::fill_after, &request));
        assert!(full.count() > 10, "the disk has hardly a part in it");
    }
}
