//! VMs whose command line vmrewind writes itself. They have no guest system, so their firmware is what is captured.

use std::fs;

use serde_json::json;
use vmrewind_testkit::disk;
use vmrewind_testkit::rig::Rig;

use crate::rig;

fn create_start_capture_restore(rig: &Rig, name: &str, options: &[&str]) {
    let image = rig.path(&format!("{name}.qcow2"));
    disk::blank_qcow2(&image, 64 << 20).unwrap();
    let before = fs::read(&image).unwrap();
    let create = ["vm", "create", name, "--disk", image.to_str().unwrap(), "--memory", "256M", "--cpus", "1"];
    let created = rig.run_json(&[&create[..], &["--accel", "tcg"], options].concat());
    assert_eq!((created["memory_bytes"].as_u64(), created["cpus"].as_u64()), (Some(256 << 20), Some(1)));
    assert!(created["machine"].as_str().is_some_and(|machine| machine.starts_with("pc-q35-")), "{created}");

    assert_eq!(rig.run_json(&["vm", "start", name])["state"], "running");
    let view = rig.run_json(&["snapshot", "create", name, "one", "--require", "live"]);
    assert_eq!(view["memory"]["bytes"].as_u64().map(|bytes| bytes >= 256 << 20), Some(true), "{view}");
    assert_eq!(view["disks"].as_array().map(Vec::len), created["disks"].as_array().map(Vec::len));
    let address = format!("{name}@one");
    for _ in 0..2 {
        let view = rig.run_json(&["snapshot", "restore", &address]);
        assert_eq!(view["state"], "running", "{view}");
    }
    rig.run_ok(&["snapshot", "verify", &address]);
    assert_eq!(rig.run_json(&["vm", "stop", name, "--force"])["state"], "stopped");
    assert_eq!(rig.run_json(&["snapshot", "restore", &address, "--paused"])["state"], "paused");
    rig.run_ok(&["vm", "delete", name, "--force", "-y"]);
    assert_eq!(rig.run_json(&["vm", "list"]), json!([]));
    assert!(before == fs::read(&image).unwrap(), "the base was written");
}

/// Guards the command line for those who give none: it starts, by BIOS and by UEFI, and can be captured.
#[test]
fn a_machine_that_vmrewind_wrote_runs_and_comes_back() {
    let rig = rig();
    create_start_capture_restore(&rig, "bios", &[]);
    create_start_capture_restore(&rig, "uefi", &["--uefi", "--net", "none"]);
    assert!(rig.qemu_pids().is_empty());
}
