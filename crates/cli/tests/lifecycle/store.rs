//! The store under a real VM's snapshots: what it shares, what is damaged in it, what is freed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Delete, Restore, RestoreDiscarding, Snapshot, Verify};
use vmrewind_testkit::rig::{Guest, GuestSpec, Rig};

use crate::rig;

const SOON: Duration = Duration::from_secs(300);

/// The store's files with that ending.
fn files(rig: &Rig, extension: &str) -> BTreeSet<PathBuf> {
    let files = rig.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

fn stored_bytes(rig: &Rig) -> u64 {
    rig.run_json(&["usage"])["stored_bytes"].as_u64().unwrap()
}

/// Flips bits all over a file; done twice it is whole again. Of compressed data a single one may mean the same, and what is at
/// one place can be needed by no snapshot: memory that came once more before the instant.
fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    for part in 4..28 {
        let at = len / 32 * part;
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, at).unwrap();
        file.write_all_at(&bytes.map(|byte| byte ^ 0x10), at).unwrap();
    }
}

/// Guards what deleting and damage mean where snapshots share their memory: exactly what was said, and nothing else.
#[test]
fn memory_is_shared_checked_and_freed() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("web").disk("disk.qcow2", "qcow2", DiskKind::Virtio));
    guest.play(&[Snapshot("one")]);
    let first = files(&rig, "pack");
    guest.play(&[Snapshot("two")]);
    shared(&rig);
    let second =
        files(&rig, "pack").difference(&first).max_by_key(|path| fs::metadata(path).unwrap().len()).cloned();
    damaged(&guest, &second.expect("the second snapshot has new memory"));
    for index in files(&rig, "index") {
        fs::remove_file(index).unwrap();
    }
    guest.play(&[Restore("two"), RestoreDiscarding("one"), Verify]);
    for undo in rig.run_json(&["snapshot", "list", "web", "--all"]).as_array().unwrap() {
        if undo["undo"] == true {
            rig.run_ok(&["snapshot", "delete", "-y", &format!("web@{}", undo["name"].as_str().unwrap())]);
        }
    }
    guest.play(&[Delete("two")]);
    freed(&guest);
}

/// The second snapshot costs what changed.
fn shared(rig: &Rig) {
    let usage = rig.run_json(&["usage", "web"]);
    let of = |name: &str, field: &str| {
        let snapshots = usage["vms"][0]["snapshots"].as_array().unwrap();
        let found = snapshots.iter().find(|snapshot| snapshot["name"] == name).unwrap();
        found[field].as_u64().unwrap()
    };
    assert!(of("two", "exclusive_bytes") < of("two", "shared_bytes"), "{usage}");
    assert!(of("two", "logical_bytes") > of("two", "shared_bytes"), "{usage}");
    let show = rig.run_json(&["snapshot", "show", "web@two"]);
    assert_eq!(show["memory"]["exclusive_bytes"], of("two", "exclusive_bytes"), "{show}");
    assert_eq!(show["memory"]["shared_bytes"], of("two", "shared_bytes"), "{show}");
    assert_eq!(rig.run_json(&["check", "--read-data"])["ok"], true);
}

/// Damage in what only the second snapshot has touches that one, and is found before the guest is given up for it.
fn damaged(guest: &Guest<'_>, pack: &Path) {
    let rig = guest.rig;
    flip(pack);
    let check = rig.run(&["check", "--read-data", "--json"]);
    assert_eq!(check.status, 7, "{check}");
    let report: Value = check.json();
    assert_eq!((&report["ok"], &report["damaged_snapshots"]), (&json!(false), &json!(["web@two"])));
    assert_eq!(rig.run(&["check", "--read-data"]).status, 7);
    // A manifest that can't be read is damage too, and hides no other.
    let one = rig.run_json(&["snapshot", "show", "web@one"])["id"].as_str().unwrap().to_owned();
    let manifest = rig.root().join(format!("vms/web/snapshots/{one}.json"));
    let content = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    let report: Value = rig.run(&["check", "--read-data", "--json"]).json();
    let touched: BTreeSet<&str> =
        report["damaged_snapshots"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(touched, BTreeSet::from(["web@two", &format!("web@{one}")]), "{report}");
    fs::write(&manifest, content).unwrap();
    let (pids, layers) = (rig.qemu_pids(), guest.layers());
    assert_eq!(rig.run_fails(&["snapshot", "verify", "web@two"], 7)["kind"], "damaged");
    rig.run_fails(&["snapshot", "restore", "web@two", "--eager"], 7);
    assert_eq!((rig.qemu_pids(), guest.layers()), (pids, layers), "the running VM was touched");
    rig.run_ok(&["snapshot", "verify", "web@one"]);
    flip(pack);
    rig.run_ok(&["check", "--read-data"]);
}

/// What was deleted is freed, beside a capture, and what is left is whole.
fn freed(guest: &Guest<'_>) {
    let rig = guest.rig;
    let before = stored_bytes(rig);
    let plan = rig.run_json(&["gc", "--dry-run"]);
    assert!(plan["freed_bytes"].as_u64() > Some(0) && stored_bytes(rig) == before, "{plan}");
    let capture = rig.spawn(&["snapshot", "create", "web", "beside", "--json"]);
    let gc = rig.run_json(&["gc"]);
    let capture = capture.wait(SOON);
    assert_eq!(capture.status, 0, "{capture}");
    assert_eq!(gc["dry_run"], false, "{gc}");
    let gc = rig.run_json(&["gc"]);
    assert_eq!(rig.run_json(&["gc", "--dry-run"])["packs"], json!([]), "after {gc}");
    assert_eq!(rig.run_json(&["check", "--read-data"])["ok"], true);
    guest.play(&[Restore("one"), Verify]);
    rig.run_ok(&["snapshot", "verify", "web@beside"]);
}
