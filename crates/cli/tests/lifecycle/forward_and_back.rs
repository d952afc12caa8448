//! One guest and the whole tree of its snapshots.

use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{
    Damage, Lacks, Reads, Restore, RestoreDiscarding, Snapshot, Start, Stop, Unplug, Verify, Write,
};
use vmrewind_testkit::rig::GuestSpec;

use crate::rig;

/// Guards the product's promise on two disks of different formats: whatever is done to a guest, every snapshot of the
/// tree brings it back exactly, again and again, backwards and forwards, from a VM that runs or does not.
#[test]
fn any_snapshot_of_the_tree_comes_back_exactly() {
    let rig = rig();
    let guest = rig.guest(
        GuestSpec::new("tree")
            .disk("first.raw", "raw", DiskKind::Virtio)
            .disk("second.qcow2", "qcow2", DiskKind::VirtioShort)
            .with(|options| {
                options.memory_mib = 512;
                options.fill_mib = 160;
            }),
    );
    guest.play(&[
        Write("note", "first"),
        Snapshot("one"),
        Write("note", "second"),
        Snapshot("two"),
        Damage,
        Restore("two"),
        Reads("note", "second"),
        // Back in the tree, and a branch from there.
        Restore("one"),
        Reads("note", "first"),
        Write("branch", "yes"),
        Snapshot("branch"),
        // Forward, to what does not descend from the present state.
        Restore("two"),
        Lacks("branch"),
        Restore("branch"),
        Reads("branch", "yes"),
        // The same twice.
        Restore("branch"),
        Damage,
        RestoreDiscarding("one"),
        Lacks("branch"),
        Verify,
        // From a VM that is stopped, and from one whose power failed.
        Stop,
        Restore("branch"),
        Reads("branch", "yes"),
        Unplug,
        Restore("two"),
        Reads("note", "second"),
        Stop,
        Start,
        Verify,
        Reads("note", "second"),
    ]);
    let list = rig.run_json(&["snapshot", "list", "tree"]);
    let parents: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|view| (view["name"].as_str(), view["parent"].as_str()))
        .collect();
    let expected = [("one", None), ("two", Some("one")), ("branch", Some("one"))];
    assert_eq!(parents, expected.map(|(name, parent)| (Some(name), parent)));
}
