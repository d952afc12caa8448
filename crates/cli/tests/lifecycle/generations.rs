//! Many generations of captures and lazy restores of a guest that writes memory and disk all the time.

use std::time::Duration;

use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Churn, Stop, Verify};
use vmrewind_testkit::rig::{GuestSpec, Rig};

use crate::failures::wait_until;
use crate::lazy::{is_held, signal_servers};
use crate::rig;

const GENERATIONS: u32 = 10;

/// Guards against errors that add up: each generation is restored from the one before, changes a part of its memory and
/// writes the rest of the time, and is captured; one of them asks for that while its memory is still to come. Memory, disks
/// and ticks are right each time, and at the end in the first, a middle and the last.
#[test]
fn ten_generations_of_a_guest_that_never_stops_writing() {
    let rig = rig();
    let guest =
        rig.guest(GuestSpec::new("busy").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
            options.fill_mib = 32;
            options.dirty_mib = 24;
            options.dirty_hz = 2000;
            options.disk_ms = 5;
        }));
    let name = |generation: u32| format!("g{generation}");
    guest.snapshot(&name(0), &[]);
    for generation in 1..=GENERATIONS {
        let (from, to) = (name(generation - 1), name(generation));
        if generation == GENERATIONS / 2 {
            capture_while_memory_comes(&rig, &guest.address(&from));
        }
        guest.restore(&from, &["--discard-current"]);
        guest.play(&[Churn(10), Verify]);
        let view = guest.snapshot(&to, &[]);
        assert_eq!((&view["grade"], &view["parent"]), (&"live".into(), &from.as_str().into()), "{view}");
    }
    for generation in [0, GENERATIONS / 2, GENERATIONS] {
        guest.restore(&name(generation), &["--discard-current"]);
    }
    rig.run_ok(&["check", "--read-data"]);
    guest.play(&[Verify, Stop]);
}

/// A capture that is asked for while memory is still to come waits until it is there.
fn capture_while_memory_comes(rig: &Rig, from: &str) {
    let view = rig.run_json(&["snapshot", "restore", from, "--discard-current"]);
    if view["mode"] != "lazy" {
        return;
    }
    signal_servers(rig, "busy", "-STOP");
    // On a fast machine all of it may have come before they were stopped.
    let comes = rig.run_json(&["vm", "show", "busy"])["state"] == "restoring";
    let mut command = rig.spawn(&["snapshot", "create", "busy", "asked-early", "--json"]);
    // It holds the VM while it waits.
    if comes {
        wait_until("it holds the VM", || !command.is_running() || is_held(rig, "busy"));
    }
    assert!(!comes || command.is_running(), "memory that is not there was captured");
    signal_servers(rig, "busy", "-CONT");
    let run = command.wait(Duration::from_secs(120));
    assert_eq!(run.status, 0, "{run}");
}
