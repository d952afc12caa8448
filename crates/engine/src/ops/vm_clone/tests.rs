//! Clones that are started in fake QEMUs, and the command in their guests: by an agent that answers, refuses, hangs, or
//! says anything at all.

use serde_json::{Value, json};
use vmrewind_testkit::fake_qemu::agent::{Answer, Answers};
use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

use super::*;
use crate::error::ErrorKind;
use crate::patience::Patience;
use crate::testing::{Bench, vm};
use crate::view::GuestClock;
use crate::vm::machine::Machine;

const NIC: &str = "net0";

fn request(count: Option<u32>) -> VmClone {
    VmClone {
        address: Address { vm: vm(), snapshot: "snap-1".parse().unwrap() },
        name: "c".parse().unwrap(),
        count,
        start: true,
        cold: false,
        link_up: true,
        inside: Some("make-unique".into()),
    }
}

/// A VM with a snapshot, whose guest and those of its clones have an agent.
fn with_agent(answers: Answers) -> Bench {
    let setup = Setup { links: vec![NIC.into()], agent: Some("qga0".into()), ..Setup::default() };
    let bench = Bench::with_snapshot(setup, Patience::default());
    *bench.machines.agent.lock().unwrap() = Some(answers);
    bench
}

/// An agent that takes a command, which ends so.
fn ends_with(status: Value) -> Answers {
    Answers::from([
        ("guest-ping", Answer::Return(json!({}))),
        ("guest-set-time", Answer::Return(json!({}))),
        ("guest-exec", Answer::Return(json!({"pid": 7}))),
        ("guest-exec-status", Answer::Return(status)),
    ])
}

/// Guards what clones are for: each is made unique by the user's command, and only then let on the network.
#[test]
fn a_clone_is_let_on_the_network_once_it_is_unique() {
    let bench = with_agent(ends_with(json!({"exited": true, "exitcode": 0, "out-data": "bmV3Cg=="})));
    let view = bench.operation().vm_clone(&request(Some(2))).unwrap();
    assert_eq!(view.clones.len(), 2);
    for clone in &view.clones {
        assert_eq!((clone.state.as_str(), clone.error.as_deref()), ("running", None), "{clone:?}");
        assert_eq!(
            (clone.clock, clone.inside.as_ref().unwrap().stdout.as_str()),
            (Some(GuestClock::Set), "new\n")
        );
        assert_eq!(clone.links_down, [] as [&str; 0], "{clone:?}");
        let qemu = bench.vm_of(&clone.name.parse().unwrap());
        assert!(qemu.fake.is_plugged(NIC));
        let asked = qemu.agent.as_ref().unwrap().asked();
        let run = asked.iter().find(|request| request["execute"] == "guest-exec").unwrap();
        let script = format!("VMREWIND_VM='{}'; export VMREWIND_VM; make-unique", clone.name);
        assert_eq!(run["arguments"]["arg"], json!(["-c", script]));
    }
}

/// Guards the network against a clone that is not unique: whatever its agent does in place of running the command well,
/// the clone runs, its cable stays unplugged, and the user learns why.
#[test]
fn a_clone_that_could_not_be_made_unique_stays_off_the_network() {
    let with = |command, answer| {
        let mut answers = ends_with(json!({"exited": false}));
        answers.insert(command, answer);
        answers
    };
    let cases = [
        (ends_with(json!({"exited": true, "exitcode": 3, "err-data": "bm8K"})), "exit status 3, no"),
        (ends_with(json!({"exited": true, "signal": 9})), "signal 9"),
        (ends_with(json!({"exited": "perhaps"})), "can't be understood"),
        (with("guest-exec", Answer::Fail("guest-exec has been disabled")), "guest-exec has been disabled"),
        (with("guest-exec", Answer::Garbage(b"login: \n")), "can't be understood"),
        (with("guest-exec", Answer::Close), "can't be understood"),
        (with("guest-exec-status", Answer::Close), "can't be understood"),
    ];
    for (answers, why) in cases {
        let bench = with_agent(answers);
        let view = bench.operation().vm_clone(&request(None)).unwrap();
        let clone = &view.clones[0];
        let error = clone.error.as_ref().unwrap();
        assert!(error.contains(why), "{error}");
        assert_eq!((clone.state.as_str(), clone.links_down.as_slice()), ("running", &[NIC.to_owned()][..]));
        assert!(!bench.vm_of(&request(None).name).fake.is_plugged(NIC), "{why}");
        bench.check_vm(&request(None).name, why);
    }
}

/// Guards a clone whose cable can't be plugged by QEMU: the command inside has run, and the user learns what is missing.
#[test]
fn a_cable_that_cannot_be_plugged_is_told() {
    let bench = with_agent(ends_with(json!({"exited": true, "exitcode": 0})));
    // The first time it is unplugged.
    *bench.machines.next_fault_at.lock().unwrap() = Some(("set_link", 1, Fault::Refuses));
    let view = bench.operation().vm_clone(&request(None)).unwrap();
    let clone = &view.clones[0];
    assert!(clone.error.as_ref().unwrap().contains("told to refuse") && clone.inside.is_some(), "{clone:?}");
    assert_eq!(clone.links_down, [NIC]);
}

/// Guards clones without an agent: they run, and what was to be done in them is said not to be.
#[test]
fn without_a_channel_nothing_is_run_inside() {
    let setup = Setup { links: vec![NIC.into()], ..Setup::default() };
    let bench = Bench::with_snapshot(setup, Patience::default());
    let view = bench.operation().vm_clone(&request(None)).unwrap();
    let error = view.clones[0].error.as_ref().unwrap();
    assert!(error.contains("no channel to a guest agent"), "{error}");
    assert_eq!(view.clones[0].state, "running");
}

/// Guards the others: of several clones of which one does not start, each says for itself what became of it.
#[test]
fn one_clone_that_does_not_start_is_the_only_one() {
    let bench = Bench::with_snapshot(Setup::default(), Patience::default());
    *bench.machines.next_fault.lock().unwrap() = Some((3, Fault::Dies));
    let view = bench.operation().vm_clone(&VmClone { inside: None, ..request(Some(3)) }).unwrap();
    let failed: Vec<_> = view.clones.iter().filter(|clone| clone.error.is_some()).collect();
    assert_eq!(failed.len(), 1, "{view:?}");
    assert_eq!((failed[0].state.as_str(), failed[0].start), ("stopped", StartMode::Warm));
    assert!(view.clones.iter().filter(|clone| clone.state == "running").count() == 2, "{view:?}");
    for clone in &view.clones {
        bench.check_vm(&clone.name.parse().unwrap(), "one of three");
    }
    // The parent's layers are theirs, too.
    let error = bench.operation().snapshot_delete(&[request(None).address]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(bench.vm().is_alive());
}

/// Guards a request that can't be met against doing half of it: nothing is made.
#[test]
fn a_request_that_cannot_be_met_makes_nothing() {
    let bench = Bench::with_snapshot(Setup::default(), Patience::default());
    let taken = VmClone { name: vm(), ..request(None) };
    let unknown =
        VmClone { address: Address { vm: vm(), snapshot: "other".parse().unwrap() }, ..request(None) };
    let cases = [
        (request(Some(0)), ErrorKind::Usage),
        (request(Some(1001)), ErrorKind::Usage),
        (taken, ErrorKind::Refused),
        (unknown, ErrorKind::NotFound),
    ];
    for (request, kind) in cases {
        let error = bench.operation().vm_clone(&request).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let vms = std::fs::read_dir(bench.engine.root.vms()).unwrap().count();
    assert_eq!(vms, 1, "something was made");
}
