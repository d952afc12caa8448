//! The same promise on other machines: chipsets, processors, firmware, kinds of disks and of memory.

use std::fs;

use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, DiskKind, Mix};
use vmrewind_testkit::rig::Action::{
    Damage, Lacks, Reads, Restore, RestoreDiscarding, Snapshot, Start, Stop, Unplug, Verify, Write,
};
use vmrewind_testkit::rig::GuestSpec;

use crate::{is_root, rig};

/// Guards the old chipset, several processors, IDE, and disks by `-blockdev`, where the node that is the disk's top
/// changes with each snapshot of one process.
#[test]
fn pc_with_two_cpus_ide_and_blockdev() {
    let rig = rig();
    let guest = rig.guest(
        GuestSpec::new("old")
            .disk("first.qcow2", "qcow2", DiskKind::Ide)
            .disk("second.raw", "raw", DiskKind::Blockdev)
            .with(|options| {
                options.machine = "pc".into();
                options.cpus = 2;
            }),
    );
    guest.play(&[Snapshot("one"), Write("note", "x"), Snapshot("two"), Snapshot("three"), Damage]);
    guest.play(&[Restore("two"), Reads("note", "x"), Snapshot("four"), Restore("one"), Lacks("note")]);
    assert_eq!(guest.ask("cpus", "CPUS"), "CPUS 2");
    guest.play(&[Restore("four"), Restore("three"), Stop]);
    let machine = guest.show()["machine"].as_str().unwrap_or_default().to_owned();
    assert!(machine.starts_with("pc-i440fx-"), "{machine}");
}

/// Guards UEFI: its variables are a disk of the VM and come back with all others, on the next boot too.
#[test]
fn uefi_variables_come_back() {
    let rig = rig();
    let spec = GuestSpec::new("uefi").uefi().disk("disk.qcow2", "qcow2", DiskKind::Scsi);
    let guest = rig.guest(spec);
    let colour = |expected: &str| {
        assert_eq!(guest.ask("efivar get Colour", "EFIVAR"), format!("EFIVAR Colour = {expected}"));
    };
    let paint = |colour: &str| {
        let answer = guest.ask(&format!("efivar set Colour {colour}"), "EFIVAR");
        assert_eq!(answer, "EFIVAR Colour set");
    };
    paint("blue");
    guest.play(&[Snapshot("blue")]);
    paint("green");
    guest.play(&[Snapshot("green"), Restore("blue")]);
    colour("blue");
    guest.play(&[Restore("green")]);
    colour("green");
    guest.play(&[RestoreDiscarding("blue"), Stop, Start, Verify]);
    colour("blue");
}

/// Guards bases that are block devices, which have no size and time to tell changes by, and are never written either.
#[test]
fn a_block_device_is_a_base() {
    if !is_root("a loop device") {
        return;
    }
    let rig = rig();
    let file = rig.path("device.raw");
    disk::ext4_raw(&file, 32 << 20).unwrap();
    let before = fs::read(&file).unwrap();
    let device = disk::loop_device(&file).unwrap();
    let spec = GuestSpec::new("device").with(|options| {
        options.disks = vec![DiskArg::new(device.path(), "raw").attached_as(DiskKind::Blockdev)];
    });
    let guest = rig.guest(spec);
    guest.play(&[Write("note", "x"), Snapshot("one"), Damage, Restore("one"), Reads("note", "x"), Stop]);
    guest.play(&[Restore("one"), Unplug]);
    rig.run_ok(&["vm", "delete", "device", "-y"]);
    assert!(before == fs::read(&file).unwrap(), "the block device was written");
}

/// Guards memory in a file: what the abandoned guest left there must not show through, above all where the snapshot
/// has zeros.
#[test]
fn memory_in_a_file_comes_back_zeros_included() {
    let rig = rig();
    let memory = tempfile::Builder::new().prefix("rig-").tempfile_in("/dev/shm").unwrap();
    let object =
        format!("memory-backend-file,id=ram,size=256M,mem-path={},share=on", memory.path().display());
    let guest =
        rig.guest(GuestSpec::new("shared").disk("disk.raw", "raw", DiskKind::VirtioShort).with(|options| {
            options.machine = "q35,memory-backend=ram".into();
            options.mix = Mix::Zero;
            options.extra = vec!["-object".into(), object];
        }));
    guest.play(&[Snapshot("zeros"), Damage, Restore("zeros"), Verify, Stop]);
    // A boot leaves other things in the file than the running guest had.
    guest.play(&[Start, Damage, Restore("zeros"), Snapshot("again"), Restore("again"), Unplug]);
    guest.play(&[Restore("zeros"), Stop]);
}
