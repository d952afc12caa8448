//! `gc`, interrupted: alone, and beside a capture.

use vmrewind_testkit::rig::{Guest, Rig};

use super::{PATIENCE, names, rig, small};

/// So many captures of a guest that does little leave small packs enough to be put together: see the store's `gc/decide.rs`.
const SNAPSHOTS: usize = 18;

/// SIGKILL at any step of a collection that writes packs anew and removes others: every snapshot stays whole, and the next
/// collection does what was left.
#[test]
fn vmrewind_killed_at_every_step() {
    let rig = rig();
    let guest = much_to_collect(&rig);
    let kept = names(&rig, "vm");
    for step in ["gc-planned", "gc-pack-rewritten", "gc-rewritten", "gc-pack-removed"] {
        rig.stop_at(step, &["gc"]).kill();
        whole(&rig, step);
    }
    rig.run_ok(&["gc"]);
    whole(&rig, "the end");
    nothing_left(&rig);
    assert_eq!(names(&rig, "vm"), kept);
    rig.run_ok(&["snapshot", "restore", "vm@s1", "--discard-current"]);
    guest.runs();
    guest.verify_ok();
    guest.stop();
    guest.check_disks();
}

/// SIGKILL of a collection beside a capture that stands in the middle of its memory: the capture goes on as if nothing had
/// been, and its memory is whole.
#[test]
fn vmrewind_killed_beside_a_capture() {
    let rig = rig();
    let guest = much_to_collect(&rig);
    for (number, step) in ["gc-planned", "gc-pack-rewritten", "gc-waiting"].into_iter().enumerate() {
        let name = format!("beside{number}");
        let capture = rig.stop_at("memory-taken", &["snapshot", "create", "vm", &name]);
        rig.stop_at(step, &["gc"]).kill();
        let run = capture.go_on(PATIENCE);
        assert_eq!(run.status, 0, "beside {step}: {run}");
        whole(&rig, step);
        rig.run_ok(&["snapshot", "verify", &format!("vm@{name}")]);
    }
    rig.run_ok(&["gc"]);
    whole(&rig, "the end");
    nothing_left(&rig);
    rig.run_ok(&["snapshot", "restore", "vm@beside1", "--discard-current"]);
    guest.runs();
    guest.verify_ok();
    guest.stop();
    guest.check_disks();
}

/// A guest with many snapshots, whose packs are small.
fn much_to_collect(rig: &Rig) -> Guest<'_> {
    let guest = rig.guest(small("vm"));
    for number in 0..SNAPSHOTS {
        guest.snapshot(&format!("s{number}"), &[]);
    }
    let plan = rig.run_json(&["gc", "--dry-run"]);
    assert!(plan["packs"].as_array().is_some_and(|packs| packs.len() >= 16), "not enough to collect: {plan}");
    guest
}

#[track_caller]
fn whole(rig: &Rig, after: &str) {
    let check = rig.run(&["check", "--read-data"]);
    assert_eq!(check.status, 0, "after {after}: {check}");
}

#[track_caller]
fn nothing_left(rig: &Rig) {
    let plan = rig.run_json(&["gc", "--dry-run"]);
    let is_empty = |field: &str| plan[field].as_array().is_some_and(Vec::is_empty);
    assert!(is_empty("images") && is_empty("packs") && is_empty("left_files"), "{plan}");
}
