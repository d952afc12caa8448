//! `vmrewind vm link`: what the guest sees of its network cables.

use serde_json::json;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Restore, Snapshot, Stop, Verify};
use vmrewind_testkit::rig::{Guest, GuestSpec};

use crate::failures::wait_until;
use crate::{assert_says, rig};

/// Guards the way from a clone that is unplugged to one that is on the network, and a VM taken off it; what was chosen
/// belongs to the machine, and comes back with a snapshot.
#[test]
fn cables_are_plugged_and_unplugged() {
    let rig = rig();
    let spec = GuestSpec::new("web").disk("a.raw", "raw", DiskKind::Virtio).with(|options| {
        let words = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,id=nic0"];
        options.extra = words.map(str::to_owned).to_vec();
    });
    let guest = rig.guest(spec);
    cable(&guest, "plugged");
    guest.play(&[Snapshot("plugged")]);
    let (clone, view) = guest.clone_as("plugged", "c", &["--start"]);
    assert_eq!(view["clones"][0]["links_down"], json!(["nic0"]), "{view}");
    cable(&clone, "unplugged");
    let view = rig.run_json(&["vm", "link", "c", "up"]);
    assert_eq!(view, json!({"vm": "c", "link": "up", "nics": ["nic0"]}));
    cable(&clone, "plugged");
    clone.play(&[Verify, Stop]);
    assert_says(&rig.run_fails(&["vm", "link", "c", "up"], 5), "does not run");

    assert_eq!(rig.run_ok(&["vm", "link", "web", "down", "--nic", "nic0"]).stdout, "web: nic0 down\n");
    cable(&guest, "unplugged");
    guest.play(&[Snapshot("unplugged"), Restore("plugged")]);
    cable(&guest, "plugged");
    guest.play(&[Restore("unplugged")]);
    cable(&guest, "unplugged");
    rig.run_ok(&["vm", "link", "web", "up"]);
    cable(&guest, "plugged");
    assert_says(&rig.run_fails(&["vm", "link", "web", "up", "--nic", "nic7"], 5), "nic0");
    rig.run_fails(&["vm", "link", "nobody", "up"], 4);
    guest.play(&[Verify, Stop]);
}

/// Waits until the guest has noticed.
#[track_caller]
fn cable(guest: &Guest<'_>, expected: &str) {
    let answer = if expected == "plugged" { "CABLE 1" } else { "CABLE 0" };
    wait_until(&format!("the cable is {expected}"), || guest.ask("cable", "CABLE") == answer);
}
