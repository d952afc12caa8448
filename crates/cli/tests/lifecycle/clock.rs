//! The guest's clock after a restore: set by the guest agent, or said to be behind.

use serde_json::Value;
use vmrewind_testkit::guest::{Agent, DiskKind};
use vmrewind_testkit::rig::{Guest, GuestSpec};

use crate::rig;

/// What the host's clock says to the restoring program: far ahead of any time at which a guest can have been captured.
const HOST_CLOCK: &str = "2060-01-01T00:00:00Z";
const HOST_CLOCK_MS: u64 = 2_840_140_800_000;
const HOUR_MS: u64 = 3_600_000;

/// Restores by a program with the host's clock far ahead; gives the result and the guest's own clock after it.
#[track_caller]
fn restore_later(guest: &Guest<'_>, name: &str) -> (Value, u64) {
    let address = guest.address(name);
    let mut command = guest.rig.command(&["--json", "snapshot", "restore", &address]);
    let output = command.env("VMREWIND_TEST_CLOCK", HOST_CLOCK).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let clock = guest.ask("clock", "CLOCK ");
    (serde_json::from_slice(&output.stdout).unwrap(), clock["CLOCK ".len()..].parse().unwrap())
}

/// The result says that the clock is behind, why, and what to do; and it is.
#[track_caller]
fn assert_behind((view, clock): &(Value, u64), why: &str) {
    assert_eq!(view["clock"], "behind", "{view}");
    let notes = view["notes"].as_array().unwrap();
    let about: Vec<_> = notes.iter().filter(|note| note.as_str().unwrap().contains("clock")).collect();
    assert!(about.len() == 1 && about[0].as_str().unwrap().contains(why), "said once, with '{why}': {view}");
    assert!(*clock < HOST_CLOCK_MS, "{clock} is not behind: {view}");
}

/// Guards programs in a guest that believe their clock: after a restore it is right where an agent can set it. An agent
/// that is gone or hangs costs a note and nothing else.
#[test]
fn the_clock_is_set_by_the_agent_or_said_to_be_behind() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("clock").with(|options| options.agent = Agent::Running));
    guest.snapshot("one", &[]);
    guest.ask("agent hang", "AGENT");
    guest.snapshot("hangs", &[]);
    guest.ask("agent kill", "AGENT");
    guest.snapshot("gone", &[]);

    let (view, clock) = restore_later(&guest, "one");
    assert_eq!((&view["clock"], &view["notes"]), (&"set".into(), &serde_json::json!([])), "{view}");
    assert!((HOST_CLOCK_MS..HOST_CLOCK_MS + HOUR_MS).contains(&clock), "{clock}: {view}");
    guest.verify_ok();
    assert_behind(&restore_later(&guest, "hangs"), "does not answer");
    guest.verify_ok();
    assert_behind(&restore_later(&guest, "gone"), "no guest agent");
    guest.verify_ok();

    let paused = rig.run_json(&["snapshot", "restore", "clock@one", "--paused"]);
    assert_eq!((&paused["clock"], &paused["state"]), (&"behind".into(), &"paused".into()), "{paused}");
}

/// Guards the plain words where there is no channel at all, and that a guest that boots has nothing to be told.
#[test]
fn without_a_channel_the_result_says_so() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("bare").disk("disk.qcow2", "qcow2", DiskKind::Virtio));
    guest.snapshot("one", &[]);
    guest.snapshot("disks", &["--disk-only"]);
    assert_behind(&restore_later(&guest, "one"), "no channel to a guest agent");
    let cold = rig.run_json(&["snapshot", "restore", "bare@disks"]);
    assert_eq!((&cold["clock"], &cold["notes"]), (&Value::Null, &serde_json::json!([])), "{cold}");
}
