//! Captures that precopy can't do, and a guest that its user has paused.

use std::thread;
use std::time::Duration;

use serde_json::json;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Damage, Restore, Snapshot, Stop, Verify};
use vmrewind_testkit::rig::GuestSpec;

use crate::{assert_says, is_root, rig};

/// Guards the way out for a guest that writes memory faster than it can be copied: another method, said in the result,
/// with memory and disks still of one instant.
#[test]
fn a_guest_that_writes_too_fast_is_captured_all_the_same() {
    let rig = rig();
    let guest =
        rig.guest(GuestSpec::new("fast").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
            options.dirty_mib = 160;
            options.dirty_hz = 4_000_000;
            options.fill_mib = 16;
            options.tick_ms = 50;
        }));
    // An emulated guest is slow itself: the copying is held back so that it can't keep up, on any machine.
    let mut command = rig.spawn(&["snapshot", "create", "fast", "one", "--json"]);
    while command.is_running() {
        command.hold();
        thread::sleep(Duration::from_millis(40));
        command.go_on();
        thread::sleep(Duration::from_millis(10));
    }
    let run = command.wait(Duration::from_secs(1));
    assert_eq!(run.status, 0, "{run}");
    let view = run.json();
    guest.remember("one", &view);
    assert!(["background", "paused"].contains(&view["method"].as_str().unwrap()), "{view}");
    guest.play(&[Verify, Damage, Restore("one")]);
}

/// Guards a pause that was the user's own: capturing does not end it, and the guest then goes on with the very next
/// tick, which in this case is known.
#[test]
fn a_paused_guest_stays_paused_and_loses_no_tick() {
    if !is_root("a background snapshot, which needs userfaultfd") {
        return;
    }
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("paused").disk("disk.raw", "raw", DiskKind::Virtio));
    guest.qmp("stop", &json!({}));
    guest.stands_still();
    let last = guest.console.last_tick().unwrap();
    let view = guest.snapshot("one", &[]);
    assert_eq!((view["grade"].as_str(), view["pause_ms"].as_f64()), (Some("live"), Some(0.0)), "{view}");
    assert_eq!(guest.state(), "paused");
    guest.stands_still();
    guest.qmp("cont", &json!({}));
    guest.play(&[Verify, Snapshot("two"), Damage]);

    let restored = guest.restore("one", &[]);
    assert_eq!(restored.view["state"], "paused", "as it was captured: {}", restored.view);
    guest.stands_still();
    let first = guest.cont_after_restore("one");
    // The line of a tick can have been half out when the guest was stopped.
    assert!((1..=2).contains(&(first.tick - last.tick)), "{first:?} after {last:?}");
    guest.play(&[Restore("two"), Stop]);
}

/// Guards `--max-pause`: where it can't be met nothing is captured, nothing is left, and the guest runs on as before.
#[test]
fn a_pause_that_is_too_long_is_refused() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("busy").disk("disk.qcow2", "qcow2", DiskKind::Blockdev));
    let error = rig.run_fails(&["snapshot", "create", "busy", "no", "--max-pause", "50us"], 5);
    assert_says(&error, "stand still");
    guest.runs();
    assert_eq!(guest.state(), "running");
    // Disks that were switched stay switched; every file is one that the VM reads through.
    let chain = guest.show()["disks"][0]["chain"].clone();
    let chain: Vec<_> = chain.as_array().unwrap().iter().filter_map(|layer| layer.as_str()).collect();
    for layer in guest.layers() {
        assert!(chain.contains(&layer.to_str().unwrap()), "{} is left behind: {chain:?}", layer.display());
    }
    assert_eq!(rig.run_json(&["snapshot", "list", "busy"]), json!([]));
    assert!(!rig.vm_folder("busy").join("journal.json").exists());
    guest.verify_ok();
    let view = guest.snapshot("one", &["--max-pause", "20s"]);
    assert!(view["pause_ms"].as_f64().is_some_and(|pause| pause > 0.0 && pause <= 20_000.0), "{view}");
    guest.play(&[Restore("one"), Stop]);
}

/// Guards a tool that migrates the same VM: what it has set in QEMU does not break a capture, and is as it was after one, after
/// one that failed, and after one that was killed.
#[test]
fn migration_settings_of_others_are_as_they_were() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("settings").disk("disk.qcow2", "qcow2", DiskKind::Virtio));
    let on = ["multifd", "auto-converge", "return-path"];
    let on = on.map(|name| json!({ "capability": name, "state": true }));
    guest.qmp("migrate-set-capabilities", &json!({ "capabilities": on }));
    guest.qmp("migrate-set-parameters", &json!({ "max-bandwidth": 1 << 20, "downtime-limit": 77 }));
    let settings = || {
        ["query-migrate-capabilities", "query-migrate-parameters"].map(|query| guest.qmp(query, &json!({})))
    };
    let before = settings();
    guest.snapshot("one", &[]);
    assert_eq!(settings(), before, "after a capture");
    rig.run_fails(&["snapshot", "create", "settings", "no", "--max-pause", "50us"], 5);
    assert_eq!(settings(), before, "after a failure");
    for step in ["guest-stopped", "memory-taken"] {
        rig.stop_at(step, &["snapshot", "create", "settings", "no"]).kill();
        guest.runs();
        rig.run_fails(&["snapshot", "show", "settings@no"], 4);
        assert_eq!(settings(), before, "after one that was killed at {step}");
    }
    guest.play(&[Restore("one"), Stop]);
}
