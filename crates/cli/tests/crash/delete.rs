//! `snapshot delete`, interrupted.

use vmrewind_testkit::rig::{Guest, kill};

use super::{PATIENCE, check_root, names, qemu_of, rig, small};

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
        rig.stop_at(step, &["-y", "snapshot", "delete", "vm@leaf"]).kill();
        assert_eq!(names(&rig, "vm"), ["base"], "after {step}");
        assert_eq!(guest.layers().len(), before - 2, "one layer of each disk is gone after {step}");
        check_root(&guest);
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
        let stopped = rig.stop_at(step, &["-y", "snapshot", "delete", "vm@leaf"]);
        kill(qemu_of(&guest));
        let run = stopped.go_on(PATIENCE);
        assert_eq!(run.status, 0, "at {step}: {run}");
        assert_eq!(guest.state(), "stopped", "after {step}");
        assert_eq!(names(&rig, "vm"), ["base"], "after {step}");
        check_root(&guest);
        rig.run_ok(&["snapshot", "restore", "vm@base", "--discard-current"]);
        guest.runs();
        guest.verify_ok();
    }
    guest.stop();
    guest.check_disks();
}
