//! Memory made of several backends, under TCG: QEMU's own copying of a running guest's memory is not right there (docs/design/0015).

use vmrewind_testkit::guest::{DiskKind, Mix};
use vmrewind_testkit::rig::Action::{Damage, Restore, Snapshot, Stop, Verify};
use vmrewind_testkit::rig::GuestSpec;

use crate::rig;

/// Guards two processors that write to two nodes: what is written while memory is copied must not be missed, the second
/// node, which is larger than the first, must not end QEMU, and the guest comes back lazily, eagerly and as a clone.
#[test]
fn two_processors_that_write_to_two_nodes() {
    let rig = rig();
    let words = [
        "-object",
        "memory-backend-ram,id=m0,size=256M",
        "-object",
        "memory-backend-ram,id=m1,size=512M",
        "-numa",
        "node,memdev=m0,cpus=0",
        "-numa",
        "node,memdev=m1,cpus=1",
    ];
    let spec = GuestSpec::new("numa").disk("numa.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
        options.memory_mib = 768;
        options.cpus = 2;
        options.mix = Mix::Random;
        options.fill_mib = 192;
        options.dirty_mib = 64;
        options.dirty_hz = 20_000;
        options.extra = words.iter().map(|word| (*word).to_owned()).collect();
    });
    let guest = rig.guest(spec);
    let view = guest.snapshot("base", &[]);
    assert!(["background", "paused"].contains(&view["method"].as_str().unwrap()), "{view}");
    guest.play(&[Damage, Restore("base"), Snapshot("second"), Damage]);
    guest.restore("second", &["--eager"]);
    let (clone, view) = guest.clone_as("base", "c", &["--start"]);
    assert_eq!(view["clones"][0]["memory_shared"], false, "{view}");
    clone.play(&[Snapshot("again"), Damage, Restore("again"), Stop]);
    guest.play(&[Verify, Stop]);
}
