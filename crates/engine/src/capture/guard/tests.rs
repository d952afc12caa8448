//! The guard of a pause as a process of its own, beside a command that dies and a QEMU that fails; and the command beside
//! a guard that is no good.

use serde_json::json;
use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};
use vmrewind_testkit::fake_qemu::{FakeQemu, Step};

use super::*;
use crate::ids::Address;
use crate::ops::snapshot_restore::SnapshotRestore;
use crate::record::snapshot::Method;
use crate::testing::{Bench, GuardPart, Parts, died_at, snapshot, until, vm};
use crate::vm::machine::Machine;

/// A QEMU of which each method of capture is the best that works.
fn setup_of(method: Method) -> Setup {
    match method {
        Method::Precopy => Setup::default(),
        Method::Background => Setup { kvm: false, version: (8, 2), ..Setup::default() },
        Method::Paused | Method::None => {
            Setup { kvm: false, version: (8, 2), background: false, ..Setup::default() }
        }
    }
}

const METHODS: [Method; 3] = [Method::Precopy, Method::Background, Method::Paused];

/// Lets a capture by a method die after so many steps. Says after which.
fn capture_that_dies(method: Method, pass: usize) -> (Bench, Option<&'static str>) {
    let bench = Bench::running(setup_of(method), Patience::default()).with_parts(Parts::REAL);
    died_at(bench, pass, |operation| drop(operation.snapshot_create(&snapshot())))
}

fn wait_until_it_runs(bench: &Bench) {
    until("a guest that runs", || bench.vm().fake.run_state() == "running");
}

/// Guards a guest against the death of the command that stopped it, at whatever step: it runs again although no other
/// command comes, and the next one finds a VM that is as before.
#[test]
fn a_command_that_dies_lets_the_guest_go() {
    for method in METHODS {
        let mut died_after = Vec::new();
        for pass in 0.. {
            let (bench, died) = capture_that_dies(method, pass);
            let Some(step) = died else { break };
            died_after.push(step);
            wait_until_it_runs(&bench);
            let case = format!("{method:?} after {step}");
            bench.recover(&case);
            bench.check(&case);
        }
        // The guest stands still there; whether it still does cannot be seen, the guard is quick.
        assert!(died_after.contains(&"disks-switched"), "{method:?}: died after {died_after:?} only");
    }
}

/// The step within a pause at which a command is to die, counted from the first.
fn pass_of(wanted: &str) -> usize {
    let steps = (0..).map(|pass| capture_that_dies(Method::Paused, pass).1);
    steps.take_while(Option::is_some).position(|step| step == Some(wanted)).unwrap()
}

/// Guards a guest whose command has died, in a QEMU that fails as well: the guard asks again, until the guest runs or
/// nobody is left to be asked.
#[test]
fn a_guard_does_not_give_up_a_qemu_that_fails() {
    let pass = pass_of("disks-switched");
    for fault in [Fault::Refuses, Fault::Late(Duration::from_millis(100)), Fault::Hangs, Fault::Dies] {
        // Those that nobody but the guard gives.
        for command in ["migrate_cancel", "cont"] {
            let bench = Bench::running(setup_of(Method::Paused), Patience::default()).with_parts(Parts::REAL);
            let qemu = bench.vm();
            qemu.fake.fail_at(command, 0, fault);
            let (bench, died) =
                died_at(bench, pass, |operation| drop(operation.snapshot_create(&snapshot())));
            assert_eq!(died, Some("disks-switched"));
            until("the fault", || qemu.fake.has_failed());
            qemu.fake.heal();
            if fault == Fault::Dies {
                until("its end", || !qemu.is_alive());
            } else {
                wait_until_it_runs(&bench);
            }
            let case = format!("{fault:?} at {command}");
            bench.recover(&case);
            bench.check(&case);
        }
    }
}

/// Guards a restored guest that is decided to run: it does although the command dies before it has said so; one that is
/// not decided does not, since its disks may be taken back.
#[test]
fn a_restored_guest_runs_if_that_is_decided() {
    let address = Address { vm: vm(), snapshot: "snap-1".parse().unwrap() };
    let (paused, eager, discard_current, only_id) = (false, true, false, None);
    let request = SnapshotRestore { address, only_id, paused, eager, discard_current };
    let mut times = 0;
    for pass in 0.. {
        let bench = Bench::with_snapshot(Setup::default(), Patience::default()).with_parts(Parts::REAL);
        let (old, before) = (bench.vm(), bench.record());
        let (bench, step) = died_at(bench, pass, |operation| drop(operation.snapshot_restore(&request)));
        let Some(step) = step else { break };
        let (qemu, decided) = (bench.vm(), decided(&bench.folder()).is_some());
        if decided {
            times += 1;
            wait_until_it_runs(&bench);
        } else if qemu.mark() != old.mark() && Journal::load(&bench.folder()).unwrap().is_some() {
            assert_ne!(qemu.fake.run_state(), "running", "after {step}");
        }
        bench.recover(step);
        let restored = bench.record().disks[0].active != before.disks[0].active;
        assert!(restored || !decided, "after {step}: a decided restore was taken back");
        let may_live = restored || bench.vm().mark() == old.mark();
        assert!(may_live || !bench.vm().is_alive(), "after {step}: a QEMU runs on layers that are gone");
        bench.check(step);
    }
    assert!(times > 1, "it died {times} times once it was decided");
}

/// Guards the guest against a pause that nobody watches: where the guard can't be had, the guest is not stopped.
#[test]
fn without_a_guard_no_guest_is_stopped() {
    for (guard, why) in
        [(GuardPart::Ends, "cannot start the guard"), (GuardPart::Deaf, "the guard process is gone")]
    {
        for method in METHODS {
            let bench = Bench::running(setup_of(method), Patience::default());
            let bench = bench.with_parts(Parts { guard, ..Parts::REAL });
            let error = bench.operation().snapshot_create(&snapshot()).unwrap_err();
            assert!(error.to_string().contains(why), "{guard:?}: {error}");
            let commands = bench.vm().fake.commands();
            assert!(
                !commands.iter().any(|command| command == "stop" || command == "migrate"),
                "{commands:?}"
            );
            bench.check("without a guard");
            assert_eq!(bench.snapshots(), [] as [&str; 0]);
        }
    }
}

/// Guards a guest that stands still in a QEMU which does not answer at first.
#[test]
fn an_answer_that_fails_does_not_end_the_rescue() {
    let status = |status: &str| Step::Return(json!({ "running": status == "running", "status": status }));
    let mut script = vec![
        Step::Negotiate,
        Step::Expect("query-status"),
        Step::Fail { class: "GenericError", desc: "busy" },
        Step::Expect("query-status"),
        status("paused"),
        Step::Expect("cont"),
        Step::Return(json!({})),
    ];
    // More than can be asked while it is watched.
    for _ in 0..200 {
        script.extend([Step::Expect("query-status"), status("running")]);
    }
    let fake = FakeQemu::play(script).unwrap();
    let patience = Patience::default();
    let monitor = Monitor::connect(&fake.socket(), patience.answer, patience);
    rescue(&monitor.unwrap(), false).unwrap();
}

/// Guards the guard's end where QEMU is gone: nobody is left to be let go.
#[test]
fn a_qemu_that_is_gone_ends_the_rescue() {
    let fake = FakeQemu::play(vec![Step::Negotiate, Step::Expect("query-status")]).unwrap();
    let patience = Patience::default();
    let monitor = Monitor::connect(&fake.socket(), patience.answer, patience);
    assert!(rescue(&monitor.unwrap(), false).is_err());
}

/// Guards a process that lives on: each failed attempt would leave it with a zombie, until it can start no more children.
#[test]
fn a_guard_that_is_left_to_itself_leaves_no_zombie() {
    let (_dir, folder) = crate::testing::folder();
    let guard = Guard::begin(&crate::testing::context(), &folder).unwrap();
    let pid = guard.child.as_ref().unwrap().id();
    drop(guard);
    let deadline = Instant::now() + Duration::from_secs(60);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "process {pid} is a zombie");
        std::thread::sleep(Duration::from_millis(2));
    }
}
