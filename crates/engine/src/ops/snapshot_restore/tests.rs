//! Restores into a fake QEMU: what comes back, and what is left when the old or the new QEMU fails.

use std::sync::Arc;

use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};
use vmrewind_testkit::fault_disk::FaultDisk;
use vmrewind_testkit::storage::FaultStorage;

use super::*;
use crate::patience::Patience;
use crate::record::journal::Journal;
use crate::testing::{Bench, FakeVm, Reached, at_every_command, faults, little_patience, vm};

const PAGE: usize = 4096;

fn request(eager: bool) -> SnapshotRestore {
    SnapshotRestore {
        address: Address { vm: vm(), snapshot: "snap-1".parse().unwrap() },
        only_id: None,
        paused: false,
        eager,
        discard_current: false,
    }
}

fn with_snapshot(patience: Patience) -> Bench {
    Bench::with_snapshot(Setup::default(), patience)
}

/// How many pages of this byte alone came into a QEMU.
fn pages_of(qemu: &FakeVm, byte: u8) -> usize {
    let received = qemu.fake.received();
    let (mut rest, mut count) = (received.as_slice(), 0);
    while let Some(at) = rest.windows(PAGE).position(|window| window.iter().all(|found| *found == byte)) {
        (rest, count) = (&rest[at + PAGE..], count + 1);
    }
    count
}

/// Guards the state that comes back: the memory of the instant, in a new QEMU, on a new layer, running.
#[test]
fn memory_and_guest_come_back() {
    let bench = with_snapshot(Patience::default());
    let old = bench.vm();
    let view = bench.operation().snapshot_restore(&request(true)).unwrap();
    assert_eq!((view.mode, view.state.as_str()), (RestoreMode::Eager, "running"));
    assert!(!old.is_alive(), "the old QEMU is left");
    let new = bench.vm();
    // The fake sends page 0 twice: what it wrote last counts.
    assert_eq!((pages_of(&new, 2), pages_of(&new, 1)), (1, 7));
    bench.check("restored");
}

/// Guards the end of the old QEMU: one that does not end by itself is ended, and never a reason to fail.
#[test]
fn an_old_qemu_that_fails_is_ended() {
    for fault in faults() {
        for pass in 0..6 {
            let bench = with_snapshot(little_patience());
            let old = bench.vm();
            old.fake.fail_after(pass, fault);
            // With all the patience for the new one, which is sound.
            let result = bench.operation().snapshot_restore(&request(true));
            let case = format!("{fault:?} at {pass}: {:?}", result.as_ref().map(|view| &view.state));
            assert!(!old.is_alive(), "{case}: the old QEMU is left");
            bench.recover(&case);
            bench.check(&case);
        }
    }
}

/// Guards a running guest against every way in which the new QEMU can fail at every command: the restore is whole, or the
/// old guest runs on; a decided one is completed by the next command.
#[test]
fn a_new_qemu_that_fails() {
    for fault in faults() {
        at_every_command(fault, 3, |command| new_fails_at(command, fault));
    }
}

/// Says how far it came.
fn new_fails_at(pass: usize, fault: Fault) -> Reached {
    let bench = with_snapshot(little_patience());
    let (old, before) = (bench.vm(), bench.record());
    *bench.machines.next_fault.lock().unwrap() = Some((pass, fault));
    let result = bench.operation().snapshot_restore(&request(true));
    let new = bench.machines.last();
    assert!(!Arc::ptr_eq(&old, &new));
    let at = new.fake.commands().get(pass).cloned().unwrap_or_default();
    let told =
        result.as_ref().map(|view| view.state.clone()).map_err(|error| (error.kind(), error.to_string()));
    let case = format!("{fault:?} at {pass} ({at}): {told:?}");
    let undone = Journal::load(&bench.folder()).unwrap().is_none() && result.is_err();
    new.fake.heal();
    bench.recover(&case);
    let after = bench.record();
    let restored = after.disks[0].active != before.disks[0].active;
    if result.is_ok() {
        assert!(restored, "{case}: nothing was restored");
    }
    if restored {
        assert!(!old.is_alive(), "{case}: two QEMUs are one VM");
    } else {
        assert!(!new.is_alive(), "{case}: a QEMU runs on layers that are not the VM's");
        assert_eq!(old.fake.run_state(), "running", "{case}: the old guest does not go on");
    }
    if undone && !restored {
        assert_eq!(after.disks[0].layers, before.disks[0].layers, "{case}");
    }
    bench.check(&case);
    Reached::of(new.fake.has_failed(), result.is_ok())
}

/// Guards disks and guest against a disk that fails once at any step of a restore, or is full from any step on: once it is
/// well again the next command finds the VM restored, or off or running with its disks as they were.
#[test]
fn a_disk_that_fails_at_any_step() {
    type Fail = fn(&FaultDisk, usize);
    let ways: [(&str, Fail); 2] =
        [("EIO", |disk, at| disk.fail_after(at, 5)), ("full", |disk, at| disk.fill_after(at))];
    for (how, fail) in ways {
        let steps = (0..).take_while(|pass| disk_fails_at(*pass, how, fail)).count();
        assert!(steps > 10, "{how}: the disk has hardly a part in it");
    }
}

/// Says whether the restore came so far.
fn disk_fails_at(pass: usize, how: &str, fail: impl Fn(&FaultDisk, usize)) -> bool {
    let disk = FaultDisk::default();
    let bench = with_snapshot(Patience::default()).with_disk(Arc::new(disk.clone()));
    let (old, before, from) = (bench.vm(), bench.record(), disk.steps().len());
    fail(&disk, pass);
    let result = bench.operation().snapshot_restore(&request(true));
    let step = disk.steps().get(from + pass).cloned();
    disk.heal();
    let case = format!("{how} at {pass}, {step:?}: {:?}", result.as_ref().map(|view| &view.state));
    bench.recover(&case);
    bench.check(&case);
    let restored = bench.record().disks[0].active != before.disks[0].active;
    assert!(restored || result.is_err(), "{case}: nothing was restored");
    let qemu = bench.vm();
    assert!(restored || !qemu.is_alive() || Arc::ptr_eq(&qemu, &old), "{case}: a QEMU of no use is left");
    assert_eq!(bench.snapshots().first().map(String::as_str), Some("snap-1"), "{case}");
    step.is_some()
}

/// Guards a guest that runs against memory that can't be read: an eager restore finds that out before it ends anything.
#[test]
fn memory_that_cannot_be_read_costs_nothing() {
    let mut storage = None;
    let bench = with_snapshot(Patience::default()).with_storage(|disk| {
        let faults = FaultStorage::new(disk);
        storage = Some(faults.clone());
        Arc::new(faults)
    });
    let packs = std::fs::read_dir(bench.engine.root.store()).unwrap();
    let packs = packs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pack = packs.into_iter().find(|name| name.ends_with(".pack")).unwrap();
    storage.unwrap().fail_reads_of(&pack, 5);
    let old = bench.vm();
    let error = bench.operation().snapshot_restore(&request(true)).unwrap_err();
    // What is in a pack that can't be read counts as missing.
    assert!(matches!(error.kind(), ErrorKind::Failed | ErrorKind::Damaged), "{error}: {:?}", error.causes());
    assert!(old.is_alive() && Arc::ptr_eq(&old, &bench.vm()));
    bench.check("unreadable");
}

/// Guards what the user asked for: the guest waits if it was to, and the disks as they were are kept unless they were not
/// to be.
#[test]
fn a_restore_is_as_it_was_asked_for() {
    for (paused, discard_current) in [(true, false), (false, true)] {
        let bench = with_snapshot(Patience::default());
        let request = SnapshotRestore { paused, discard_current, ..request(true) };
        let view = bench.operation().snapshot_restore(&request).unwrap();
        assert_eq!(view.state, if paused { "paused" } else { "running" });
        assert_eq!(bench.vm().fake.run_state(), view.state);
        assert_eq!(view.undo, None, "nothing was written since");
        assert_eq!(
            bench.guard_was_told(),
            if paused { "UD" } else { "CD" },
            "a guest that waits has no guard, only the old one had"
        );
        assert_eq!(bench.snapshots(), ["snap-1"]);
    }
}

/// Guards the way back: what was written since the snapshot is kept as an undo point.
#[test]
fn what_was_written_since_is_kept() {
    let bench = with_snapshot(Patience::default());
    let active = bench.record().disks[0].active.clone();
    let path = bench.folder().layer("d0", &active);
    let done =
        std::process::Command::new("qemu-io").args(["-f", "qcow2", "-c", "write 0 64k"]).arg(path).output();
    assert!(done.unwrap().status.success());
    let view = bench.operation().snapshot_restore(&request(true)).unwrap();
    assert_eq!(view.undo.as_deref(), Some("v@undo-1"), "{view:?}");
    let mut names = bench.snapshots();
    names.sort();
    assert_eq!(names, ["snap-1", "undo-1"]);
    bench.check("kept");
}

/// Guards against a snapshot that was deleted and made anew under the same name: it is not the one that was meant.
#[test]
fn a_snapshot_of_another_id_is_refused() {
    let bench = with_snapshot(Patience::default());
    let old = bench.vm();
    let only_id = Some("00000000000000ff".parse().unwrap());
    let error =
        bench.operation().snapshot_restore(&SnapshotRestore { only_id, ..request(true) }).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Refused), "{error}");
    assert!(old.is_alive() && Arc::ptr_eq(&old, &bench.vm()));
    bench.check("another");
}
