//! The guest itself, on real QEMU: what every other test relies on must be right first.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use vmrewind_testkit::Result;
use vmrewind_testkit::console::{Console, Mark};
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, DiskKind, GuestOptions, Mix, command_line};
use vmrewind_testkit::qemu::{self, Qemu};
use vmrewind_testkit::report::Tick;

const BOOT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 32 << 20;

fn boot(options: &GuestOptions, run: &Path) -> Result<(Qemu, Console)> {
    let qemu = qemu::spawn(&command_line(options)?, run)?;
    let console = qemu.console();
    console.wait_ready(BOOT)?;
    Ok((qemu, console))
}

/// Guards the proof: memory, both disks and the counters between them are found right, and the power button ends it
/// with both file systems unmounted.
#[test]
fn verifies_itself_and_obeys_the_power_button_on_q35() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.raw"), folder.path().join("second.qcow2"));
    disk::ext4_raw(&first, DISK_BYTES).unwrap();
    disk::ext4_qcow2(&second, DISK_BYTES).unwrap();
    let disks =
        vec![DiskArg::new(&first, "raw"), DiskArg::new(&second, "qcow2").attached_as(DiskKind::Blockdev)];
    let (mut qemu, console) =
        boot(&GuestOptions { disks, ..GuestOptions::default() }, folder.path()).unwrap();

    let verify = console.verify(ANSWER).unwrap();
    assert!(verify.ok && verify.file == Some(verify.disk) && verify.file2 == Some(verify.disk), "{verify:?}");
    assert_eq!(console.ask("cpus", "CPUS", ANSWER).unwrap(), "CPUS 1");
    assert_eq!(console.ask("sync", "SYNCED", ANSWER).unwrap(), "SYNCED");

    let since = console.mark();
    qemu.qmp("system_powerdown", &json!({})).unwrap();
    console.wait_for("power off", since, ANSWER, |line| (line == "STOPPING").then_some(())).unwrap();
    assert!(qemu.wait_exit(ANSWER).unwrap().success());
    let done = console.last_tick().unwrap().done;
    for (path, format) in [(first, "raw"), (second, "qcow2")] {
        let found = disk::inspect(&path, format).unwrap();
        assert!(found.clean, "{}", found.report);
        assert!(found.counter >= Some(done), "{found:?} after {done}");
    }
}

/// Guards the other machine, two CPUs, the old ways to attach disks, and that damage is noticed: a check that finds
/// nothing wrong with a damaged guest would find nothing wrong with a badly restored one.
#[test]
fn notices_damage_on_pc_with_two_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.qcow2"), folder.path().join("second.raw"));
    disk::ext4_qcow2(&first, DISK_BYTES).unwrap();
    disk::ext4_raw(&second, DISK_BYTES).unwrap();
    let disks = vec![
        DiskArg::new(&first, "qcow2").attached_as(DiskKind::Ide),
        DiskArg::new(&second, "raw").attached_as(DiskKind::Scsi),
    ];
    let options = GuestOptions { machine: "pc".into(), cpus: 2, disks, ..GuestOptions::default() };
    let (_qemu, console) = boot(&options, folder.path()).unwrap();

    assert_eq!(console.ask("cpus", "CPUS", ANSWER).unwrap(), "CPUS 2");
    assert_eq!(console.ask("write note kept for later", "WROTE", ANSWER).unwrap(), "WROTE note");
    assert_eq!(console.ask("read note", "READ", ANSWER).unwrap(), "READ note = kept for later");
    let before = console.verify(ANSWER).unwrap();
    assert!(before.ok && before.file.is_some() && before.file2.is_some(), "{before:?}");

    assert_eq!(console.ask("damage", "DAMAGE", ANSWER).unwrap(), "DAMAGED");
    let after = console.verify(ANSWER).unwrap();
    assert!(!after.ok && !after.big_ok && !after.dirty_ok && after.sum != before.sum, "{after:?}");
    assert_eq!((after.file, after.file2), (None, None));
    assert_eq!(console.ask("read note", "READ", ANSWER).unwrap(), "READ note missing");
}

/// Guards tests with firmware: variables written by the guest are in the pflash file after it has ended.
#[test]
fn keeps_uefi_variables_in_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let vars = folder.path().join("vars.fd");
    disk::uefi_vars(&vars).unwrap();
    let options = GuestOptions { uefi_vars: Some(vars), fill_mib: 16, ..GuestOptions::default() };
    {
        let (qemu, console) = boot(&options, folder.path()).unwrap();
        assert_eq!(console.ask("efivar set Colour blue", "EFIVAR", ANSWER).unwrap(), "EFIVAR Colour set");
        assert_eq!(console.ask("efivar set Colour green", "EFIVAR", ANSWER).unwrap(), "EFIVAR Colour set");
        console.send("stop").unwrap();
        qemu.wait_exit(ANSWER).unwrap();
    }
    let (_qemu, console) = boot(&options, folder.path()).unwrap();
    assert_eq!(console.ask("efivar get Colour", "EFIVAR", ANSWER).unwrap(), "EFIVAR Colour = green");
    for _ in 0..2 {
        console.wait_tick(console.mark(), ANSWER).unwrap();
    }
    assert!(console.max_gap(Mark::START) > Duration::ZERO);
}

/// Guards the counters' promise, on which consistency of disks is judged: after QEMU is killed, each disk holds a
/// counter between done and in flight, the first is at most one ahead, and a boot goes on from there.
#[test]
fn counters_keep_their_promise_when_the_power_fails() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["first", "second"].map(|name| folder.path().join(name));
    let disks = paths.each_ref().map(|path| DiskArg::new(path, "qcow2")).to_vec();
    for path in &paths {
        disk::ext4_qcow2(path, DISK_BYTES).unwrap();
    }
    let options = GuestOptions { fill_mib: 0, disk_ms: 1, disks, ..GuestOptions::default() };
    let last = {
        let (qemu, console) = boot(&options, folder.path()).unwrap();
        let counted = |line: &str| Tick::parse(line).filter(|tick| tick.done >= 20);
        console.wait_for("twenty counts", Mark::START, ANSWER, counted).unwrap();
        drop(qemu);
        console.last_tick().unwrap()
    };
    let on_disk = paths.each_ref().map(|path| disk::inspect(path, "qcow2").unwrap().counter.unwrap());
    assert!(
        on_disk[1] >= last.done && (0..=1).contains(&(on_disk[0] - on_disk[1])),
        "{on_disk:?} after {last:?}"
    );

    let (_qemu, console) = boot(&options, folder.path()).unwrap();
    let ready = console.wait_ready(ANSWER).unwrap();
    assert_eq!([ready.found, ready.found2], on_disk.map(Some));
    let verify = console.verify(ANSWER).unwrap();
    assert!(verify.ok && verify.disk >= on_disk[0], "{verify:?}");
}

/// Guards the benchmarks' guest: its memory is the source's, what it changes it knows, and no more than it says.
#[test]
fn memory_of_a_desktop_comes_from_a_source_and_changes_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let content: Vec<u8> =
        (0_u32..256 << 10).flat_map(|number| (number ^ 0x5eed_0000).to_le_bytes()).collect();
    std::fs::write(&source, &content).unwrap();
    let options =
        GuestOptions { source: Some(source), mix: Mix::Desktop, fill_mib: 40, ..GuestOptions::default() };
    let (mut qemu, console) = boot(&options, folder.path()).unwrap();
    let before = console.verify(ANSWER).unwrap();
    let changed = console.ask("churn 20", "CHURNED ", ANSWER).unwrap();
    let changed: u32 = changed["CHURNED ".len()..].parse().unwrap();
    assert!((40 * 256 / 10..40 * 256 * 3 / 10).contains(&changed), "{changed} of {} pages", 40 * 256);
    let after = console.verify(ANSWER).unwrap();
    assert!(before.ok && after.ok && before.sum != after.sum, "{before:?} {after:?}");

    let memory = folder.path().join("memory");
    qemu.qmp("pmemsave", &json!({"val": 0, "size": 256 << 20, "filename": memory})).unwrap();
    let memory = std::fs::read(memory).unwrap();
    let pages: std::collections::HashSet<&[u8]> = memory.chunks_exact(4096).collect();
    let found = content.chunks_exact(4096).filter(|page| pages.contains(page)).count();
    assert!(found > 128, "{found} of 256 pages of the source are in the guest's memory");
}
