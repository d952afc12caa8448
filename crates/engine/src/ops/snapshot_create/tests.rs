//! Captures of a fake QEMU: which method is taken, and what is left when QEMU fails at any command.

mod storage;
mod stream;

use std::time::Duration;

use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

use super::*;
use crate::patience::Patience;
use crate::testing::{Bench, Reached, at_every_command, faults, little_patience, snapshot};

/// A guest that its user paused.
fn paused() -> Setup {
    Setup { run_state: "paused", ..Setup::default() }
}

/// A QEMU that can do no precopy that ends, on a host without userfaultfd.
fn stubborn() -> Setup {
    Setup { kvm: false, version: (8, 2), background: false, ..Setup::default() }
}

fn unsound() -> Setup {
    Setup { kvm: false, version: (8, 2), ..Setup::default() }
}

/// Guards the choice of the method: the one with the shortest pause that this QEMU can do.
#[test]
fn the_first_method_that_works_is_taken() {
    let limited = SnapshotCreate { max_pause: Some(Duration::from_secs(20)), ..snapshot() };
    let without_kvm = Setup { kvm: false, ..Setup::default() };
    let cases = [
        (Method::Precopy, Setup::default(), snapshot()),
        (Method::Precopy, Setup::default(), limited.clone()),
        (Method::Precopy, without_kvm, snapshot()),
        (Method::Background, unsound(), snapshot()),
        (Method::Background, unsound(), limited),
        (Method::Paused, stubborn(), snapshot()),
        (Method::Background, paused(), snapshot()),
    ];
    for (wanted, setup, request) in cases {
        let bench = Bench::running(setup.clone(), Patience::default());
        let settings = bench.vm().fake.settings();
        let view = bench.operation().snapshot_create(&request).unwrap();
        assert_eq!(view.method, wanted, "{setup:?}");
        assert_eq!(bench.vm().fake.settings(), settings, "{wanted:?}: settings of the user's are changed");
        bench.check(wanted.as_str());
        assert_eq!(bench.snapshots(), ["snap-1"]);
        let told = if setup.run_state == "running" { "PD" } else { "" };
        assert_eq!(bench.guard_was_told(), told, "{wanted:?}");
    }
}

/// Guards a guest that can't be taken at all: it goes on as it was, and the error says of each method why.
#[test]
fn where_no_method_works_the_vm_is_as_before() {
    let limited = SnapshotCreate { max_pause: Some(Duration::from_secs(20)), ..snapshot() };
    let unhelped = Setup { background: false, ..paused() };
    for (setup, request, why) in [
        (stubborn(), limited, ["precopy: without KVM", "background: "].as_slice()),
        (unhelped, snapshot(), &["background: QEMU refused: Background-snapshot is not supported"]),
    ] {
        let bench = Bench::running(setup, Patience::default());
        let error = bench.operation().snapshot_create(&request).unwrap_err();
        assert!(why.iter().all(|why| error.to_string().contains(why)), "{error}");
        bench.check("no method");
        assert_eq!(bench.snapshots(), [] as [&str; 0]);
        assert_eq!(bench.record().disks[0].layers.len(), 1, "a layer was left that nothing was switched to");
    }
}

/// Guards `--max-pause`: a pause that is too long by any measure gives no snapshot, and a guest that runs.
#[test]
fn a_pause_that_is_too_long_is_a_miss_of_every_method() {
    let request = SnapshotCreate { max_pause: Some(Duration::from_nanos(1)), ..snapshot() };
    let bench = Bench::running(Setup::default(), Patience::default());
    let error = bench.operation().snapshot_create(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    bench.check("too long");
    assert_eq!(bench.snapshots(), [] as [&str; 0]);
}

/// Guards what is before a failed capture against every way in which QEMU can fail at every command of it: the guest
/// runs if it ran, nothing is listed that is not whole, nothing is left over, and the VM's disks are those that its QEMU
/// writes to.
fn fails_everywhere(setup: &Setup, request: &SnapshotCreate) {
    faults().into_iter().for_each(|fault| fails_by(fault, setup, request));
}

fn fails_by(fault: Fault, setup: &Setup, request: &SnapshotCreate) {
    at_every_command(fault, 3, |command| fails_at(setup, request, command, fault));
}

/// Says how far it came.
fn fails_at(setup: &Setup, request: &SnapshotCreate, pass: usize, fault: Fault) -> Reached {
    let bench = Bench::running(setup.clone(), little_patience());
    let qemu = bench.vm();
    qemu.fake.fail_after_others(pass, fault);
    let result = bench.operation().snapshot_create(request);
    let came = qemu.fake.has_failed();
    let commands = qemu.fake.commands();
    let at = commands.get(pass).map_or("nothing", String::as_str);
    let case = format!("{setup:?} {fault:?} at {pass} ({at}): {:?}", result.as_ref().map(|_| ()));
    qemu.fake.heal();
    // The next command, of whatever kind, brings everything in order.
    bench.recover(&case);
    bench.check(&case);
    let listed = if result.is_ok() { vec!["snap-1".to_owned()] } else { Vec::new() };
    assert_eq!(bench.snapshots(), listed, "{case}");
    Reached::of(came, result.is_ok())
}

#[test]
fn a_qemu_that_fails_in_precopy() {
    fails_everywhere(&Setup::default(), &snapshot());
}

#[test]
fn a_qemu_that_fails_in_a_background_snapshot() {
    fails_everywhere(&unsound(), &snapshot());
}

#[test]
fn a_qemu_that_fails_in_a_background_snapshot_of_a_paused_guest() {
    fails_everywhere(&paused(), &snapshot());
}

#[test]
fn a_qemu_that_fails_while_its_guest_stands_still() {
    fails_everywhere(&stubborn(), &snapshot());
}

#[test]
fn a_qemu_that_fails_while_its_disks_alone_are_taken() {
    fails_everywhere(&Setup::default(), &SnapshotCreate { disk_only: true, ..snapshot() });
}

/// Guards disks that belong together: whatever fails, between the opening of two layers too, all of them are switched or
/// none is.
#[test]
fn a_qemu_that_fails_with_several_disks() {
    let disks = ["d0", "d1", "d2"].map(str::to_owned).to_vec();
    let setup = Setup { devices: disks, ..Setup::default() };
    for fault in [Fault::DiesAfter, Fault::Refuses] {
        fails_by(fault, &setup, &snapshot());
        fails_by(fault, &setup, &SnapshotCreate { disk_only: true, ..snapshot() });
    }
}

/// Guards another tool's migrations after a capture: QEMU's settings are what they were, also where QEMU does not take
/// them back at the first time.
#[test]
fn settings_are_put_back_where_that_fails_at_first() {
    for fault in [Fault::Refuses, Fault::Late(Duration::from_millis(300))] {
        for command in ["migrate-set-capabilities", "migrate-set-parameters"] {
            let bench = Bench::running(Setup::default(), Patience::default())
                .with_patience(Patience { answer: Duration::from_millis(200), ..Patience::default() });
            // The first of each is the capture's own.
            bench.vm().fake.fail_at(command, 1, fault);
            bench.operation().snapshot_create(&snapshot()).unwrap();
            assert!(bench.vm().fake.has_failed(), "{command}");
            bench.check(&format!("{fault:?} at {command}"));
        }
    }
}
