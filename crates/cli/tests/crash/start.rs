//! `vm start`, interrupted.

use std::time::Instant;

use vmrewind_testkit::rig::Guest;

use super::{PATIENCE, check_root, rig, small};

/// SIGKILL of vmrewind right after QEMU was spawned, before it has made a socket: the QEMU is the VM's all the same,
/// and no second one is started beside it.
#[test]
fn a_qemu_that_nobody_wrote_down_is_found() {
    let rig = rig();
    let guest = Guest::create(&rig, small("vm"));
    rig.stop_at("qemu-spawned", &["vm", "start", "vm"]).kill();
    let error = rig.run_fails(&["vm", "start", "vm"], 5);
    assert!(error.to_string().contains("runs already"), "{error}");
    assert_eq!(rig.qemu_pids().len(), 1);
    // It may not have come far yet.
    let deadline = Instant::now() + PATIENCE;
    while guest.state() == "unresponsive" && Instant::now() < deadline {}
    assert_eq!(guest.state(), "running");
    rig.run_ok(&["vm", "stop", "vm", "--force"]);
    assert_eq!(rig.qemu_pids(), Vec::<u32>::new());
    check_root(&guest);
}
