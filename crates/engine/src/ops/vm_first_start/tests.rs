//! First starts of clones in fake QEMUs: what they go on with, and what is left where QEMU or the command fails.

use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

use super::*;
use crate::ids::VmName;
use crate::ops::vm_clone::VmClone;
use crate::patience::Patience;
use crate::testing::{Bench, Reached, at_every_command, died_at, faults, little_patience, vm};
use crate::vm::machine::Machine;

/// The network device of the VMs here.
const NIC: &str = "net0";

fn clone() -> VmName {
    "c".parse().unwrap()
}

/// A VM with a snapshot, and a clone of that which was never started.
fn with_clone(patience: Patience) -> Bench {
    let setup = Setup { links: vec![NIC.into()], ..Setup::default() };
    let bench = Bench::with_snapshot(setup, Patience::default());
    let request = VmClone {
        address: crate::ids::Address { vm: vm(), snapshot: "snap-1".parse().unwrap() },
        name: clone(),
        count: None,
        start: false,
        cold: false,
        link_up: false,
        inside: None,
    };
    bench.operation().vm_clone(&request).unwrap();
    bench.with_patience(patience)
}

fn start(bench: &Bench) -> Result<StartReport> {
    bench.operation().start(&clone(), VmStart::default())
}

/// Guards what a clone goes on with: the memory of the snapshot, on a file that others share, and a network cable that
/// is not plugged, since its guest thinks that it is its parent.
#[test]
fn a_clone_goes_on_from_shared_memory() {
    let bench = with_clone(Patience::default());
    let report = start(&bench).unwrap();
    assert_eq!((report.mode, report.memory_shared), (StartMode::Warm, true), "{report:?}");
    assert_eq!(report.links_down, [NIC]);
    let qemu = bench.vm_of(&clone());
    assert!(qemu.is_shared && !qemu.fake.is_plugged(NIC));
    assert_eq!(qemu.fake.run_state(), "running");
    let state = qemu.fake.received();
    assert!(!state.is_empty() && !state.windows(64).any(|bytes| bytes == [1; 64]), "memory came in twice");
    bench.check_vm(&clone(), "started");
    bench.check("the parent");
}

/// Guards memory against disks that have gone on: a clone goes on from its snapshot's memory once, and boots after that.
#[test]
fn the_second_start_boots() {
    let bench = with_clone(Patience::default());
    start(&bench).unwrap();
    assert!(bench.record_of(&clone()).first_start.is_none());
    bench.vm_of(&clone()).kill().unwrap();
    let report = start(&bench).unwrap();
    assert_eq!((report.mode, report.links_down.len()), (StartMode::Cold, 0), "{report:?}");
    assert!(bench.vm_of(&clone()).fake.received().is_empty());
}

/// Guards a QEMU that can't share memory: the clone is given memory of its own, all of it, and the user is told why.
#[test]
fn an_older_qemu_is_given_memory_of_its_own() {
    let bench = with_clone(Patience::default());
    let mut record = bench.record_of(&clone());
    record.hardware.qemu_version = "8.1.5".into();
    record.save(&bench.folder_of(&clone())).unwrap();
    let report = start(&bench).unwrap();
    assert_eq!((report.mode, report.memory_shared), (StartMode::Warm, false), "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("QEMU 8.2")), "{report:?}");
    let qemu = bench.vm_of(&clone());
    let pages = qemu.fake.received().windows(4096).filter(|page| page.iter().all(|byte| *byte == 1)).count();
    assert!(!qemu.is_shared && pages > 0);
    bench.check_vm(&clone(), "started");
}

/// Guards the snapshot's memory against a QEMU that can't load it: nothing was written to the clone's disks, and the start
/// can be tried again.
#[test]
fn a_state_that_is_not_loaded_can_be_loaded_later() {
    let bench = with_clone(Patience::default());
    bench.set_up(|setup| setup.loads = false);
    let error = start(&bench).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("did not load"), "{error}");
    assert!(!bench.vm_of(&clone()).is_alive() && bench.record_of(&clone()).first_start.is_some());
    bench.check_vm(&clone(), "not loaded");
    bench.set_up(|setup| setup.loads = true);
    assert_eq!(start(&bench).unwrap().mode, StartMode::Warm);
    bench.check_vm(&clone(), "loaded");
}

/// Guards a first start against every way in which its QEMU can fail at every command: it is done and the guest runs, or it
/// is still to be done and no QEMU is left.
#[test]
fn a_qemu_that_fails_at_its_first_start() {
    for fault in faults() {
        at_every_command(fault, 6, |command| fails_at(command, fault));
    }
}

/// Says how far it came.
fn fails_at(pass: usize, fault: Fault) -> Reached {
    let bench = with_clone(little_patience());
    *bench.machines.next_fault.lock().unwrap() = Some((pass, fault));
    let result = start(&bench);
    let qemu = bench.vm_of(&clone());
    let told = result.as_ref().map(|report| report.mode).map_err(ToString::to_string);
    let case = format!("{fault:?} at {pass} {:?}: {told:?}", qemu.fake.commands().get(pass));
    qemu.fake.heal();
    let reached = Reached::of(qemu.fake.has_failed(), result.is_ok());
    settle(&bench, &case);
    reached
}

/// Has the next command recover, and checks that the start is done or still to be done.
fn settle(bench: &Bench, case: &str) {
    bench.recover_vm(&clone(), case);
    bench.check_vm(&clone(), case);
    let started = bench.machines.of(&bench.folder_of(&clone()));
    let lives = started.is_some_and(|qemu| qemu.is_alive());
    let is_to_come = bench.record_of(&clone()).first_start.is_some();
    assert!(!(lives && is_to_come), "{case}: a QEMU runs, and its first start is still to come");
    bench.set_up(|setup| setup.loads = true);
    if is_to_come {
        let bench = bench.operation();
        assert_eq!(bench.start(&clone(), VmStart::default()).unwrap().mode, StartMode::Warm, "{case}");
    }
}

/// Guards a first start against the death of the command at every step of it.
#[test]
fn a_command_that_dies_in_a_first_start() {
    let mut decided = 0;
    for pass in 0.. {
        let bench = with_clone(Patience::default());
        let (bench, step) =
            died_at(bench, pass, |operation| drop(operation.start(&clone(), VmStart::default())));
        let Some(step) = step else { break };
        settle(&bench, step);
        decided += usize::from(bench.record_of(&clone()).first_start.is_none());
        assert!(bench.vm().is_alive(), "the parent runs on");
    }
    assert!(decided > 2, "it died {decided} times");
}
