//! What a next command makes of a journal: undone or carried out, once or several times, with a QEMU or without.

use std::process::Command;

use vmrewind_testkit::fake_qemu::machine::Setup;

use super::*;
use crate::ids::VmName;
use crate::layers::overlay;
use crate::patience::Patience;
use crate::record::journal::ProcessMark;
use crate::testing::{Bench, vm};
use crate::vm::local::LocalQemu;
use crate::vm::process::Process;

const OPERATION: &str = "snapshot create";

/// Guards recovery from a restore that was killed once it had told the old QEMU to end: that is dying, and answers
/// nobody any more.
#[test]
fn an_old_qemu_that_is_dying_is_let_go() {
    let run = tempfile::tempdir().unwrap();
    let mut dying = Command::new("sleep").arg("0.5").spawn().unwrap();
    let process = Process::open(dying.id(), run.path().to_owned()).unwrap().unwrap();
    let machine = LocalQemu { patience: Patience::default() }.machine(process);
    let done = let_old_guest_go(&*machine);
    dying.wait().unwrap();
    done.unwrap();
}

/// The layer that an operation was about to put on top of the VM's disk, made.
fn new_layer(bench: &Bench) -> Overlay {
    let record = bench.record();
    let disk = &record.disks[0];
    let layer = "00000000000000cc".parse().unwrap();
    let overlay = Overlay { disk: disk.name.clone(), layer, parent: Some(disk.active.clone()) };
    overlay::make(&bench.folder(), disk, &overlay).unwrap();
    overlay
}

fn undo_plan(cause: Cause, overlays: &[Overlay], qemu: Option<ProcessMark>, guest_ran: bool) -> UndoPlan {
    let (image, migration, successor) = (None, None, None);
    UndoPlan { cause, overlays: overlays.to_vec(), image, qemu, guest_ran, migration, successor }
}

/// Leaves a journal behind, as a command that died has.
fn leave(bench: &Bench, phase: Phase) {
    Journal::new(OPERATION, bench.operation().ctx.now(), phase).save(&bench.folder()).unwrap();
}

/// How many layers the VM's disk has, by its record and on disk.
fn layers(bench: &Bench) -> usize {
    let record = bench.record();
    bench.check("recovered");
    record.disks[0].layers.len()
}

/// Guards what the VM has written: a new layer of a capture that died goes if it is empty, or was cut off while it was made,
/// and stays, as the active one, if QEMU may have written to it.
#[test]
fn a_layer_stays_if_something_was_written_to_it() {
    let write = |path: &Path| {
        let done =
            Command::new("qemu-io").args(["-f", "qcow2", "-c", "write 0 64k"]).arg(path).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let cut_off = |path: &Path| {
        let _ = std::fs::remove_file(path);
        std::fs::write(path, b"QFI").unwrap();
    };
    let gone = |path: &Path| std::fs::remove_file(path).unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Change<'_>, usize); 4] =
        [("empty", &|_| {}, 1), ("written", &write, 2), ("cut off", &cut_off, 1), ("gone", &gone, 1)];
    for (what, change, expected) in cases {
        let bench = Bench::off(Setup::default(), Patience::default());
        let overlay = new_layer(&bench);
        change(&bench.folder().layer(&overlay.disk, &overlay.layer));
        // Twice: the command that undoes can die, too, and leave the journal as it was.
        for _ in 0..2 {
            leave(
                &bench,
                Phase::Prepare(Box::new(undo_plan(
                    Cause::Capture,
                    std::slice::from_ref(&overlay),
                    None,
                    true,
                ))),
            );
            bench.recover(what);
            assert_eq!(layers(&bench), expected, "{what}");
        }
        let active = bench.record().disks[0].active.clone();
        assert_eq!(active == overlay.layer, expected == 2, "{what}");
    }
}

/// Guards a restore that was given up: its new layers go, and what only its own QEMU can have written to them with it. The
/// QEMU that ran before goes on, its guest too; another is ended.
#[test]
fn a_restore_is_undone_whoever_runs() {
    for own in [true, false] {
        let bench = Bench::running(Setup::default(), Patience::default());
        let qemu = bench.vm();
        qemu.channel(Use::Operation).unwrap().stop().unwrap();
        let overlay = new_layer(&bench);
        let before = if own { Some(qemu.mark()) } else { None };
        leave(&bench, Phase::Prepare(Box::new(undo_plan(Cause::Restore, &[overlay], before, true))));
        bench.recover("undone");
        assert_eq!(qemu.is_alive(), own);
        assert!(!own || qemu.fake.run_state() == "running", "it stood still for the restore");
        assert_eq!(layers(&bench), 1);
    }
}

/// Guards guests that stand still for themselves: one that crashed, or met a full disk, is not let go for a capture's sake;
/// nor is one that its user had paused.
#[test]
fn only_a_guest_that_ran_is_let_go() {
    for (run_state, guest_ran) in [("guest-panicked", true), ("io-error", true), ("paused", false)] {
        let bench = Bench::running(Setup { run_state, ..Setup::default() }, Patience::default());
        let mark = bench.vm().mark();
        leave(&bench, Phase::Prepare(Box::new(undo_plan(Cause::Capture, &[], Some(mark), guest_ran))));
        bench.recover(run_state);
        assert_eq!(bench.vm().fake.run_state(), run_state);
        assert!(!bench.vm().fake.commands().iter().any(|command| command == "cont"), "{run_state}");
    }
}

/// Guards a decided operation against a crash within it: it is carried out again from its begin, as often as it takes, and
/// what it was to do is done once.
#[test]
fn what_is_decided_is_carried_out_as_often_as_it_takes() {
    let bench = Bench::with_snapshot(Setup::default(), Patience::default());
    let snapshots = Snapshots::load(&bench.folder()).unwrap();
    let gone = &snapshots.sound[0];
    let mut record = bench.record();
    record.current = None;
    let plan = RedoPlan {
        remove: vec![gone.id.clone()],
        remove_images: vec![gone.memory.as_ref().unwrap().image.clone()],
        resume: true,
        ..RedoPlan::of(record)
    };
    for _ in 0..3 {
        bench.vm().channel(Use::Operation).unwrap().stop().unwrap();
        leave(&bench, Phase::Commit(Box::new(plan.clone())));
        bench.recover("carried out");
        bench.check("carried out");
        assert_eq!(bench.snapshots(), [] as [&str; 0]);
        assert_eq!(bench.vm().fake.run_state(), "running", "it was to run");
    }
    assert_eq!(bench.record().current, None);
}

/// Guards whoever only looks: what a dead command left is recovered by that, too, and told.
#[test]
fn a_command_that_looks_recovers_and_says_so() {
    let bench = Bench::off(Setup::default(), Patience::default());
    let overlay = new_layer(&bench);
    leave(&bench, Phase::Prepare(Box::new(undo_plan(Cause::Capture, &[overlay], None, false))));
    bench.operation().vm_show(&vm()).unwrap();
    assert_eq!(layers(&bench), 1);
    let undoing = crate::context::Event::Note(Note::Undoing { operation: OPERATION.into() });
    assert!(bench.heard.events().iter().any(|(_, event)| *event == undoing), "{:?}", bench.heard.events());
}

/// Guards the commit point: layers that a manifest names are made durable before the journal promises them, all that no
/// earlier snapshot has promised, from the top.
#[test]
fn layers_are_synced_that_no_snapshot_has_promised() {
    let bench = Bench::with_snapshot(Setup::default(), Patience::default());
    let (record, snapshots) = (bench.record(), Snapshots::load(&bench.folder()).unwrap());
    let disk = &record.disks[0];
    let chain = disk.chain(&disk.active).unwrap();
    assert_eq!(chain.len(), 2);
    let frozen = FrozenDisk { layer: disk.active.clone(), ..snapshots.sound[0].disks[0].clone() };
    assert_eq!(unpromised(&record, &snapshots.sound, &frozen), chain[..1]);
    assert_eq!(unpromised(&record, &[], &frozen), chain);
    // A layer that the record does not know is synced for itself.
    let unknown = FrozenDisk { layer: "00000000000000dd".parse().unwrap(), ..frozen };
    assert_eq!(unpromised(&record, &snapshots.sound, &unknown), std::slice::from_ref(&unknown.layer));
}

/// Guards the name of what is recovered against an error that says nothing: a recovery that fails says of which operation.
#[test]
fn a_recovery_that_fails_names_the_operation() {
    let bench = Bench::running(Setup::default(), Patience::default());
    let mark = bench.vm().mark();
    leave(&bench, Phase::Prepare(Box::new(undo_plan(Cause::Capture, &[], Some(mark), true))));
    let patience = Patience {
        answer: Duration::from_millis(50),
        let_go: Duration::from_millis(50),
        ..Patience::default()
    };
    let bench = bench.with_patience(Patience { end: Duration::from_millis(10), ..patience });
    bench.vm().fake.fail_after(0, vmrewind_testkit::fake_qemu::machine::Fault::Hangs);
    let name: VmName = vm();
    let error = bench.operation().hold(&name).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "cannot recover from an interrupted 'snapshot create'");
    assert!(Journal::may_be_undone(&bench.folder()), "the next command tries again");
    bench.vm().fake.heal();
    bench.recover("healed");
    bench.check("healed");
}
