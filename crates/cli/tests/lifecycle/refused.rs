//! A host that keeps userfaultfd from QEMU: restores are eager there, and say why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Damage, Restore, Snapshot, Stop, Verify};
use vmrewind_testkit::rig::GuestSpec;

use crate::{assert_says, is_root, rig};

/// Runs QEMU without the capability for userfaultfd, and, in a view of the file system of its own, without its device.
const WITHOUT_USERFAULTFD: &str = "#!/bin/sh
exec unshare --mount sh -c '
    if [ -e /dev/userfaultfd ]; then
        mount --bind /dev/userfaultfd /dev/userfaultfd &&
        mount -o remount,bind,nodev /dev/userfaultfd || exit 99
    fi
    exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace qemu-system-x86_64 \"$@\"' sh \"$@\"
";

/// Guards users without privilege: what needs userfaultfd gives way to what does not, saying so, and the guest is as right.
#[test]
fn without_userfaultfd_a_restore_is_eager_and_says_why() {
    let all_users = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_default();
    if all_users.trim() == "1" {
        eprintln!("left out, since this host lets all users have userfaultfd");
        return;
    }
    if !is_root("a QEMU with less privilege than this") {
        return;
    }
    let rig = rig();
    let program = rig.path("qemu-system-x86_64");
    write_program(&program, WITHOUT_USERFAULTFD);
    let guest =
        rig.guest(GuestSpec::new("plain").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
            options.program = program.display().to_string();
        }));
    guest.play(&[Snapshot("one"), Damage]);
    let view = guest.restore("one", &[]).view;
    assert_eq!(view["mode"], "eager", "{view}");
    assert_says(&view["notes"], "lazy restore is not possible here");
    assert_says(&view["notes"], "serfault");
    assert_eq!(guest.state_now(), "running", "nothing is to come any more");
    let run = rig.run_ok(&["snapshot", "restore", "plain@one"]);
    let words = format!("{}{}", run.stdout, run.stderr);
    assert!(words.contains("eager") && words.contains("lazy restore is not possible here"), "{run}");

    // A guest that its user paused could be captured in background only.
    guest.qmp("stop", &json!({}));
    let error = rig.run_fails(&["snapshot", "create", "plain", "two"], 1);
    assert_says(&error, "background");
    guest.stands_still();
    guest.qmp("cont", &json!({}));
    guest.runs();
    let (clone, _) = guest.clone_as("one", "c", &["--start"]);
    clone.play(&[Verify, Stop]);
    guest.play(&[Snapshot("two"), Restore("one"), Stop]);
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
