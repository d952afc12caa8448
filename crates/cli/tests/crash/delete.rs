//! `snapshot delete`, interrupted.

use vmrewind_testkit::rig::Guest;

use super::{Meanwhile, has_stopped, kill_at, kill_qemu_at, names, rig, small};

/// SIGKILL at any step: a deletion is one decision, so the snapshot is gone with all it had, or nothing is.
#[test]
fn vmrewind_killed_at_every_step() {
    let rig = rig();
    let guest = Guest::create(&rig, small("vm"));
    rig.run_ok(&["snapshot", "create", "vm", "base"]);
    for step in ["committed", "manifests-written", "record-written", "manifests-removed", "layers-removed"] {
        rig.run_ok(&["snapshot", "create", "vm", "leaf"]);
        rig.run_ok(&["snapshot", "restore", "vm@base", "--discard-current"]);
        let before = guest.layers().len();
        kill_at(&guest, step, &["-y", "snapshot", "delete", "vm@leaf"], Meanwhile::Silent);
        assert_eq!(names(&rig, "vm"), ["base"], "after {step}");
        assert_eq!(guest.layers().len(), before - 2, "one layer of each disk is gone after {step}");
    }
    guest.start();
    guest.verify_ok();
    guest.stop();
    guest.check_disks();
}

/// SIGKILL of the running VM's QEMU while a snapshot is deleted: the deletion needs no QEMU, and the VM boots again.
#[test]
fn qemu_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    guest.snapshot("base", &[]);
    for step in ["committed", "record-written", "manifests-removed", "layers-removed"] {
        rig.run_ok(&["snapshot", "create", "vm", "leaf"]);
        rig.run_ok(&["snapshot", "restore", "vm@base", "--discard-current"]);
        guest.runs();
        let run = kill_qemu_at(&rig, step, &["-y", "snapshot", "delete", "vm@leaf"]);
        assert_eq!(run.status, 0, "at {step}: {run}");
        has_stopped(&guest, step);
        assert_eq!(names(&rig, "vm"), ["base"], "after {step}");
        rig.run_ok(&["snapshot", "restore", "vm@base", "--discard-current"]);
        guest.runs();
        guest.verify_ok();
    }
    guest.stop();
    guest.check_disks();
}
