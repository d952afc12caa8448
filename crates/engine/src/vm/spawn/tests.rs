//! Programs in QEMU's place that do not start, say why, or never answer.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::error::ErrorKind;
use crate::patience::Patience;
use crate::record::vm::VmRecord;
use crate::testing::folder;

/// A program that is a shell script.
fn program(dir: &Path, script: &str) -> String {
    let path = dir.join("qemu-system-x86_64");
    // Written under another name first: a program that is open for writing, by a child of another test too, can't be run.
    let written = dir.join("written");
    fs::write(&written, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(&written, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

fn record(program: &str, working_dir: &str) -> VmRecord {
    let line = [program, "-M", "q35", "-m", "32"].map(str::to_owned).to_vec();
    let text = serde_json::json!({
        "version": 1, "id": "000000000000000000000000000000bb", "name": "web", "created": "2026-01-02T03:04:05Z",
        "hardware": { "command_line": line, "working_dir": working_dir, "qemu_version": "10.0.2" },
        "disks": [], "media": [], "current": null,
    });
    serde_json::from_value(text).unwrap()
}

/// Starts a program for a purpose.
fn start_it(folder: &VmFolder, record: &VmRecord, purpose: Purpose, cancel: &Cancel) -> Result<Started> {
    let launch = Launch {
        cancel,
        reached: &|_| {},
        folder,
        record,
        hardware: &record.hardware,
        disks: &BTreeMap::new(),
        edit: &|_| Ok(()),
        held: None,
        purpose,
        beside: None,
    };
    start(launch, &LocalQemu { patience: Patience::default() })
}

fn refused(folder: &VmFolder, record: &VmRecord) -> Error {
    start_it(folder, record, Purpose::Boot, &Cancel::default()).map(drop).unwrap_err()
}

/// Guards the user's way to a remedy: QEMU's own last words are the cause, the log is named, and the VM can be started again
/// at once.
#[test]
fn a_qemu_that_ends_is_told_by_its_words() {
    let (dir, folder) = folder();
    let record = record(&program(dir.path(), "echo 'no such machine' >&2; exit 1"), "/");
    for _ in 0..2 {
        let error = refused(&folder, &record);
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Failed, "QEMU did not start VM 'web'")
        );
        let causes = error.causes().join(": ");
        assert!(causes.contains("no such machine"), "{causes}");
        assert_eq!(error.hint(), Some(&Hint::OutputOfQemu { log: folder.run().join(QEMU_LOG) }));
        drop(Alive::take(&folder).unwrap());
    }
    assert!(folder.run().join("qemu.log.1").exists(), "the log of the start before is kept");
}

/// Guards an error's length: of a QEMU that says very much its last lines are shown.
#[test]
fn only_the_last_words_are_shown() {
    let (dir, folder) = folder();
    let record = record(&program(dir.path(), "seq 100000 >&2; exit 1"), "/");
    let causes = refused(&folder, &record).causes().join("\n");
    assert!(causes.contains("100000") && causes.contains("99989"), "{causes}");
    assert!(!causes.contains("99988"), "{causes}");
}

/// Guards a VM whose program or folder is gone: the error says which, and what to do.
#[test]
fn what_is_gone_is_named() {
    let (dir, folder) = folder();
    let error = refused(&folder, &record("/nowhere/qemu-system-x86_64", "/"));
    assert_eq!(
        (error.to_string().as_str(), error.hint()),
        ("cannot run '/nowhere/qemu-system-x86_64'", Some(&Hint::ProgramOfVm))
    );
    let gone = record(&program(dir.path(), "exit 0"), "/nowhere");
    let error = refused(&folder, &gone);
    assert_eq!(
        (error.to_string().as_str(), error.hint()),
        ("the folder '/nowhere' is gone", Some(&Hint::MakeVmAgain))
    );
    drop(Alive::take(&folder).unwrap());
}

/// Guards Ctrl-C: a QEMU that does not answer is not waited for, and ended.
#[test]
fn a_start_can_be_cancelled() {
    let (dir, folder) = folder();
    let record = record(&program(dir.path(), "exec sleep 600"), "/");
    let cancel = Cancel::default();
    cancel.cancel();
    let error = start_it(&folder, &record, Purpose::Boot, &cancel).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    drop(Alive::take(&folder).unwrap());
    assert!(Process::find(&folder).unwrap().is_none());
}

/// Guards what QEMU is told: the user's own words, our monitors, and that the guest waits where it is to.
#[test]
fn the_command_line_is_the_vm_s_and_ours() {
    let (dir, folder) = folder();
    let record = record(&program(dir.path(), "echo \"$@\" >&2; exit 1"), "/");
    let words = |purpose| {
        let error = start_it(&folder, &record, purpose, &Cancel::default()).map(drop).unwrap_err();
        error.causes().join("; ")
    };
    let boot = words(Purpose::Boot);
    assert!(boot.contains("-M q35 -m 32 "), "{boot}");
    for name in [socket::USER, socket::OPERATION, socket::GUARD, socket::STATUS, socket::PAGES] {
        assert!(boot.contains(&format!("{}/{name}", folder.run().display())), "{name}: {boot}");
    }
    assert!(!boot.contains(" -S") && !boot.contains(RECOVERY_PIPES), "{boot}");
    let paused = words(Purpose::BootPaused);
    assert!(paused.contains(" -S") && !paused.contains("-incoming"), "{paused}");
    let incoming = words(Purpose::Incoming);
    assert!(incoming.contains(" -S") && incoming.contains("-incoming defer"), "{incoming}");
    assert!(incoming.contains(RECOVERY_PIPES) && folder.run().join("recovery.in").exists(), "{incoming}");
}

/// Guards the disks: a record without one that the command line has is damage, and nothing is started.
#[test]
fn a_disk_without_a_layer_is_damage() {
    let (dir, folder) = folder();
    let mut record = record(&program(dir.path(), "exit 0"), "/");
    record.hardware.command_line.extend(["-drive", "file=a.raw,format=raw,if=none,id=d0"].map(str::to_owned));
    let error = refused(&folder, &record);
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(!folder.run().join(QEMU_LOG).exists(), "something was started");
}
