//! `snapshot create`, interrupted.

use super::{Meanwhile, has_stopped, kill_at, kill_qemu_at, names, rig, small};

/// The steps of a live capture, with whether the snapshot exists if nothing goes on after it.
const STEPS: [(&str, bool); 14] = [
    ("journal-prepared", false),
    ("layers-made", false),
    ("layers-opened", false),
    ("guard-armed", false),
    ("guest-stopped", false),
    ("disks-switched", false),
    ("state-sent", false),
    ("memory-taken", false),
    ("image-durable", false),
    ("committed", true),
    ("manifests-written", true),
    ("record-written", true),
    ("manifests-removed", true),
    ("layers-removed", true),
];

/// SIGKILL of vmrewind at any step, inside the pause included: the guest goes on by itself, and the snapshot is whole
/// or not there.
#[test]
fn vmrewind_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    let mut expected = Vec::new();
    for (step, exists) in STEPS {
        let name = format!("at-{step}");
        kill_at(&guest, step, &["snapshot", "create", "vm", &name], Meanwhile::Ticks);
        if exists {
            expected.push(name);
        }
        assert_eq!(names(&rig, "vm"), expected, "after {step}");
        assert_eq!(guest.state(), "running", "after {step}");
        guest.verify_ok();
    }
    guest.snapshot("last", &[]);
    for name in expected.iter().rev() {
        rig.run_ok(&["snapshot", "verify", &guest.address(name)]);
    }
    rig.run_ok(&["snapshot", "restore", &guest.address(&expected[0])]);
    guest.runs();
    guest.verify_ok();
    guest.stop();
    guest.check_disks();
}

/// A recovery that is itself killed, at each of its steps: the next one ends it.
#[test]
fn recovery_killed_and_done_again() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    for step in ["undo-guest-let-go", "committed", "record-written", "manifests-removed", "layers-removed"] {
        rig.stop_at("disks-switched", &["snapshot", "create", "vm", "never"]).kill();
        kill_at(&guest, step, &["vm", "list"], Meanwhile::Ticks);
        assert_eq!(names(&rig, "vm"), Vec::<String>::new(), "recovery killed at {step}");
        guest.verify_ok();
    }
    guest.snapshot("works", &[]);
    guest.stop();
    guest.check_disks();
}

/// SIGKILL of QEMU at any step: the command says so, the VM is stopped, and boots again with all it had written.
#[test]
fn qemu_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    let before =
        ["journal-prepared", "layers-opened", "guard-armed", "guest-stopped", "disks-switched", "state-sent"];
    // Once all memory has come, the capture can be completed without QEMU.
    let after = ["memory-taken", "image-durable", "committed", "record-written"];
    for step in before.into_iter().chain(after) {
        let done = guest.verify_ok().disk;
        let name = format!("at-{step}");
        let run = kill_qemu_at(&rig, step, &["snapshot", "create", "vm", &name]);
        assert!(run.status == 1 || (after.contains(&step) && run.status == 0), "at {step}: {run}");
        assert_eq!(names(&rig, "vm").contains(&name), run.status == 0, "at {step}: {run}");
        has_stopped(&guest, step);
        let found = guest.start();
        assert!(found >= Some(done), "after {step} the disk has {found:?}, it had {done}");
        guest.verify_ok();
    }
    guest.stop();
    guest.check_disks();
}

/// A capture of disks only, and of a stopped VM, killed at every step.
#[test]
fn disk_only_and_off_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm"));
    let steps = ["layers-made", "layers-opened", "disks-switched", "committed", "record-written"];
    for step in steps {
        let create = ["snapshot", "create", "vm", &format!("disks-{step}"), "--disk-only"];
        kill_at(&guest, step, &create, Meanwhile::Ticks);
        guest.verify_ok();
    }
    guest.stop();
    for step in ["journal-prepared", "layers-made", "committed", "manifests-written", "record-written"] {
        kill_at(&guest, step, &["snapshot", "create", "vm", &format!("off-{step}")], Meanwhile::Silent);
    }
    let expected = [
        "disks-committed",
        "disks-record-written",
        "off-committed",
        "off-manifests-written",
        "off-record-written",
    ];
    assert_eq!(names(&rig, "vm"), expected);
    guest.check_disks();
}
