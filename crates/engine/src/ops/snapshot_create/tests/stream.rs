//! Captures of a QEMU whose migration stream is not what it should be.

use vmrewind_testkit::fake_qemu::machine::Bend;

use super::*;

/// Guards against a snapshot that could not be restored: a stream that is cut off, or that says what can't be, gives none,
/// by whatever method it comes; the guest goes on, and the next capture of the same QEMU is whole.
#[test]
fn a_stream_with_a_fault_is_no_snapshot() {
    for bend in [Bend::Cut, Bend::Short, Bend::Devices, Bend::UnknownBlock, Bend::BeyondBlock] {
        for setup in [Setup::default(), unsound(), paused(), stubborn()] {
            let case = format!("{bend:?} {setup:?}");
            let bench = Bench::running(Setup { bend: Some(bend), ..setup }, Patience::default());
            let error = bench.operation().snapshot_create(&snapshot()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Failed, "{case}: {error}");
            bench.check(&case);
            assert_eq!(bench.snapshots(), [] as [&str; 0], "{case}");
            bench.vm().fake.change(|setup| setup.bend = None);
            bench.operation().snapshot_create(&snapshot()).unwrap();
            bench.check(&case);
        }
    }
}

/// Guards the user's way to a remedy: what was wrong with the stream is said, and where in it.
#[test]
fn the_fault_is_named() {
    let named = |bend: Bend| {
        let bench = Bench::running(Setup { bend: Some(bend), ..Setup::default() }, Patience::default());
        let error = bench.operation().snapshot_create(&snapshot()).unwrap_err();
        [vec![error.to_string()], error.causes()].concat().join(": ")
    };
    let unknown = named(Bend::UnknownBlock);
    assert!(unknown.contains("vga.vram"), "{unknown}");
    let short = named(Bend::Short);
    assert!(short.contains("not whole"), "{short}");
}

/// Guards the instant: a QEMU whose guest ran on while its state was taken gives no snapshot of memory and disks that do
/// not belong together.
#[test]
fn a_state_of_another_instant_is_no_snapshot() {
    let bench = Bench::running(Setup { bend: Some(Bend::Running), ..unsound() }, Patience::default());
    let error = bench.operation().snapshot_create(&snapshot()).unwrap_err();
    assert!(error.to_string().contains("another instant"), "{error}");
    bench.check("another instant");
}
