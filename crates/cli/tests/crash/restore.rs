//! `snapshot restore`, interrupted.

use serde_json::json;
use vmrewind_testkit::rig::Guest;

use super::{Meanwhile, check_root, has_stopped, kill_at, kill_qemu_at, rig, small};

/// What must be after vmrewind was killed at a step of a restore and nothing but the next command was run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// The old guest, which never ended.
    Old,
    /// The restored guest; it runs before any command is run.
    Restored,
}

const STEPS: [(&str, After); 15] = [
    ("journal-prepared", After::Old),
    ("layers-made", After::Old),
    ("qemu-spawned", After::Old),
    ("qemu-started", After::Old),
    ("state-loaded", After::Old),
    ("old-stopped", After::Old),
    ("guard-armed", After::Old),
    ("committed", After::Restored),
    ("seat-taken", After::Restored),
    ("guest-resumed", After::Restored),
    ("manifests-written", After::Restored),
    ("record-written", After::Restored),
    ("old-ended", After::Restored),
    ("manifests-removed", After::Restored),
    ("layers-removed", After::Restored),
];

/// SIGKILL of vmrewind at any step: the restore is done or undone, and no guest is left paused or running on layers
/// that are not the VM's.
#[test]
fn vmrewind_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    guest.ask("write mark before", "WROTE");
    guest.snapshot("base", &[]);
    for (step, after) in STEPS {
        guest.ask("write mark after", "WROTE");
        kill_at(&guest, step, &["snapshot", "restore", "vm@base", "--discard-current"], Meanwhile::Ticks);
        assert_eq!(guest.state(), "running", "after {step}");
        let mark = if after == After::Old { "after" } else { "before" };
        check_mark(&guest, mark, step);
        // The next command has ended the other one.
        rig.run_ok(&["snapshot", "create", "vm", "--disk-only"]);
        assert_eq!(rig.qemu_pids().len(), 1, "after {step}");
        rig.run_ok(&["snapshot", "restore", "vm@base", "--discard-current"]);
        guest.runs();
        check_mark(&guest, "before", step);
    }
    guest.stop();
    guest.check_disks();
}

/// SIGKILL of the new QEMU at any step: the command says so, the old guest goes on where it was not ended yet, and the
/// restore can be done again.
#[test]
fn qemu_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    guest.ask("write mark before", "WROTE");
    guest.snapshot("base", &[]);
    for step in ["qemu-started", "state-loaded", "guard-armed", "committed", "old-ended"] {
        guest.ask("write mark after", "WROTE");
        let run = kill_qemu_at(&rig, step, &["snapshot", "restore", "vm@base", "--discard-current"]);
        if step == "qemu-started" {
            // Before the guest could run: the restore begins anew by itself.
            assert_eq!(run.status, 0, "at {step}: {run}");
        } else if step == "state-loaded" || step == "guard-armed" {
            assert_eq!(run.status, 1, "at {step}: {run}");
            assert!(run.stderr.contains("VM 'vm' goes on as it was"), "{run}");
            guest.runs();
            check_mark(&guest, "after", step);
            continue;
        } else {
            assert_ne!(run.status, 0, "at {step}: {run}");
            has_stopped(&guest, &format!("{step}: {run}"));
            rig.run_ok(&["snapshot", "restore", "vm@base", "--discard-current"]);
        }
        guest.runs();
        check_mark(&guest, "before", step);
    }
    let run = kill_qemu_at(&rig, "layers-made", &["snapshot", "restore", "vm@base"]);
    assert_eq!(run.status, 0, "the old QEMU is not needed any more: {run}");
    guest.runs();
    guest.verify_ok();
    guest.stop();
    guest.check_disks();
}

/// The guest is right, and its file holds what it held on this line of time.
#[track_caller]
fn check_mark(guest: &Guest<'_>, mark: &str, step: &str) {
    let read = guest.ask("read mark", "READ mark");
    assert!(read.ends_with(mark), "after {step}: {read}");
    guest.verify_ok();
}

/// A capture that was undone leaves its layers on the VM's chain. What lies below an empty one must not be taken for
/// nothing when a restore decides whether there is anything to keep.
#[test]
fn data_below_a_layer_of_an_undone_capture_is_kept() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    guest.snapshot("base", &[]);
    guest.ask("write mark kept", "WROTE");
    guest.ask("sync", "SYNCED");
    guest.qmp("stop", &json!({}));
    rig.stop_at("disks-switched", &["snapshot", "create", "vm", "never"]).kill();
    assert_eq!(guest.state(), "paused");
    rig.run_ok(&["vm", "stop", "vm", "--force"]);
    let view = rig.run_json(&["snapshot", "restore", "vm@base"]);
    assert_eq!(view["undo"], "vm@undo-1", "{view}");
    guest.runs();
    check_root(&guest);
    let view = rig.run_json(&["snapshot", "restore", "vm@undo-1", "--discard-current"]);
    assert_eq!(view["mode"], "cold", "{view}");
    guest.stop();
    guest.start();
    let read = guest.ask("read mark", "READ mark");
    assert!(read.ends_with("kept"), "{read}");
    check_root(&guest);
}
