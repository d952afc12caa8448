//! Deleting snapshots of a VM that runs: its QEMU is asked nothing, and goes on writing to its own layer.

use vmrewind_testkit::fake_qemu::machine::Setup;

use super::*;
use crate::patience::Patience;
use crate::testing::{Bench, snapshot, vm};

fn address(name: &str) -> Address {
    Address { vm: vm(), snapshot: name.parse().unwrap() }
}

/// Guards the layers under a running VM: what it reads through stays, and the rest goes with the last snapshot that
/// names it.
#[test]
fn layers_that_a_running_vm_reads_through_stay() {
    let bench = Bench::running(Setup::default(), Patience::default());
    for _ in 0..3 {
        bench.operation().snapshot_create(&snapshot()).unwrap();
    }
    bench.check("three snapshots");
    let asked = bench.vm().fake.commands().len();
    for name in ["snap-1", "snap-3"] {
        let error = bench.operation().snapshot_delete(&[address(name)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    let layers = bench.record().disks[0].layers.len();
    let plan = bench.operation().snapshot_drop(&address("snap-2"), None).unwrap();
    assert_eq!((plan.layers.len(), plan.images), (0, 1), "its layer is below what runs");
    assert_eq!(bench.record().disks[0].layers.len(), layers);
    assert_eq!(bench.snapshots(), ["snap-1", "snap-3"]);
    bench.check("dropped");
    assert_eq!(bench.vm().fake.commands().len(), asked, "QEMU was asked something");
}
