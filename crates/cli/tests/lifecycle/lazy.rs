//! Lazy restores: the guest runs before its memory is there.

use serde_json::json;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Damage, Reads, Restore, Snapshot, Stop, Verify, Write};
use vmrewind_testkit::rig::GuestSpec;

use crate::rig;

/// Guards the promise of a lazy restore: the guest goes on at once where it was, with memory that is right at once and
/// when all of it has come; and what is done meanwhile works, or waits.
#[test]
fn memory_is_right_at_once_and_later() {
    let rig = rig();
    let guest =
        rig.guest(GuestSpec::new("lazy").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
            options.memory_mib = 512;
            options.fill_mib = 256;
        }));
    guest.play(&[Write("note", "kept"), Snapshot("one"), Damage]);
    let restored = guest.restore("one", &[]);
    assert_eq!(restored.view["mode"], "lazy", "{}", restored.view);
    guest.verify_ok();
    assert_eq!(guest.state(), "running");
    guest.verify_ok();
    guest.play(&[Reads("note", "kept")]);
    for _ in 0..3 {
        let restored = guest.restore("one", &[]);
        eprintln!("{}", restored.view);
    }
    guest.play(&[Snapshot("two"), Damage, Restore("two"), Restore("one"), Verify, Stop]);
    assert_eq!(rig.run_json(&["vm", "show", "lazy"])["restore"], json!(null));
}
