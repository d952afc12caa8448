//! Restores into a fake QEMU: what comes back, and what is left when the old or the new QEMU fails.

use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

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

/// Guards a restore against every way in which the new QEMU can fail at every command: it is whole, or the VM is off with
/// its disks as they were; a decided one is completed by the next command.
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
    let new = bench.vm();
    assert!(!std::sync::Arc::ptr_eq(&old, &new) && !old.is_alive());
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
    if !restored {
        assert!(!new.is_alive(), "{case}: a QEMU runs on layers that are not the VM's");
    }
    if undone && !restored {
        assert_eq!(after.disks[0].layers, before.disks[0].layers, "{case}");
    }
    bench.check(&case);
    Reached::of(new.fake.has_failed(), result.is_ok())
}
