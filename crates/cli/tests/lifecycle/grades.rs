//! What a snapshot promises without memory, the ways to restore, and what is shown of it all.

use std::fs;

use serde_json::{Value, json};
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{
    DiskOnly, Lacks, Reads, Restore, RestoreCold, Snapshot, Start, Stop, Verify, Write,
};
use vmrewind_testkit::rig::{Guest, GuestSpec};

use crate::{assert_says, each, rig};

/// Guards the grades: what was recorded of disks alone boots again with what they had, a snapshot of a VM that was off
/// leaves it off, and a grade that can't be given is refused before anything is done.
#[test]
fn disks_alone_come_back_as_they_were() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("grades").disk("disk.qcow2", "qcow2", DiskKind::Virtio));
    guest.play(&[Write("note", "first"), DiskOnly("crash"), Write("note", "second")]);
    let done = guest.console.last_tick().unwrap().done;
    let view = guest.rig.run_json(&["snapshot", "show", "grades@crash"]);
    assert_eq!((view["grade"].as_str(), &view["memory"]), (Some("crash"), &Value::Null));
    let found = guest.restore_cold("crash");
    assert!(found.is_some_and(|found| (1..=done).contains(&found)), "{found:?} of {done}");
    guest.play(&[Reads("note", "first"), Write("note", "third"), Stop]);

    let view = guest.snapshot("off", &["-m", "words", "--label", "a=b"]);
    assert_eq!((view["grade"].as_str(), view["pause_ms"].as_f64()), (Some("off"), Some(0.0)));
    assert_eq!((view["message"].as_str(), &view["labels"]), (Some("words"), &json!({"a": "b"})));
    guest.play(&[Start, Write("note", "fourth"), RestoreCold("crash"), Reads("note", "first")]);
    let view = rig.run_json(&["snapshot", "restore", "grades@off"]);
    assert_eq!((view["state"].as_str(), view["mode"].as_str()), (Some("stopped"), Some("cold")));
    assert_eq!(view["start_ms"], Value::Null);
    guest.check_current("off");
    let live = ["snapshot", "create", "grades", "no", "--require", "live"];
    assert_says(&rig.run_fails(&live, 5), "grade off, not live");
    guest.play(&[Start, Reads("note", "third")]);

    let crash = [&live[..], &["--disk-only"]].concat();
    assert_says(&rig.run_fails(&crash, 5), "grade crash, not live");
    rig.run_fails(&["snapshot", "show", "grades@no"], 4);
    let view = guest.snapshot("any", &["--require", "crash"]);
    assert_eq!(view["grade"], "live", "live is more than crash");
    guest.play(&[Restore("any"), Verify, Stop]);
}

/// Guards the other ways to restore: waiting for the user, and back to what a restore had abandoned; and names.
#[test]
fn a_restore_can_wait_and_can_be_taken_back() {
    let rig = rig();
    let spec = GuestSpec::new("ways").disk("disk.raw", "raw", DiskKind::Virtio);
    let guest = rig.guest(spec.with(|options| options.cpus = 1));
    guest.play(&[Write("note", "first"), Snapshot("one"), Write("note", "second")]);

    let restored = guest.restore("one", &["--paused"]);
    assert_eq!(restored.view["state"], "paused", "{}", restored.view);
    assert_eq!(guest.state(), "paused");
    guest.stands_still();
    guest.cont_after_restore("one");
    guest.play(&[Reads("note", "first")]);

    let undo = restored.view["undo"].as_str().unwrap();
    assert!(undo.starts_with("ways@"), "{undo}");
    check_views(&guest, undo);
    // What was abandoned are the disks of a guest that ran.
    guest.restore_cold(undo.trim_start_matches("ways@"));
    guest.play(&[Reads("note", "second"), Restore("one"), Reads("note", "first")]);

    assert_says(&rig.run_fails(&["snapshot", "create", "ways", "one"], 5), "already");
    let view = rig.run_json(&["snapshot", "rename", "ways@one", "uno"]);
    assert_eq!(view["name"], "uno");
    rig.run_fails(&["snapshot", "restore", "ways@one"], 4);
    let view = rig.run_json(&["snapshot", "restore", "ways@uno", "--discard-current"]);
    assert_eq!((view["snapshot"].as_str(), view["state"].as_str()), (Some("uno"), Some("running")));
    guest.verify_ok();
    hardware_comes_back(&guest);
}

/// The documents of `list` and `show`, and the table and the tree for people.
fn check_views(guest: &Guest<'_>, undo: &str) {
    let rig = guest.rig;
    let list = rig.run_json(&["snapshot", "list", "ways"]);
    assert_eq!(each(&list, "name"), ["one"], "undo points are not listed unless asked for");
    let one = &list[0];
    assert_eq!(*one, rig.run_json(&["snapshot", "show", "ways@one"]));
    assert_eq!(
        (&one["parent"], &one["locked_until"], &one["deleted"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!((one["current"].as_bool(), one["undo"].as_bool()), (Some(true), Some(false)));
    assert_eq!(one["children"], json!([undo.trim_start_matches("ways@")]));
    let all = rig.run_json(&["snapshot", "list", "--all"]);
    assert_eq!(each(&all, "name").len(), 2);
    assert_eq!(
        (&all[1]["undo"], &all[1]["grade"], &all[1]["parent"]),
        (&json!(true), &json!("crash"), &json!("one"))
    );

    let vm = guest.show();
    assert_eq!((vm["snapshots"].as_u64(), vm["current"].as_str()), (Some(1), Some("one")), "{vm}");
    assert!(vm["pid"].as_u64().is_some_and(|pid| rig.qemu_pids().contains(&u32::try_from(pid).unwrap())));
    assert_eq!(vm["ports"], json!({}));
    let chain = vm["disks"][0]["chain"].as_array().unwrap();
    assert_eq!((chain.first(), chain.len()), (Some(&vm["disks"][0]["active"]), 3), "{vm}");
    let listed = rig.run_json(&["vm", "list"]);
    assert_eq!((each(&listed, "name"), each(&listed, "state")), (vec!["ways"], vec!["running"]));

    let tree = rig.run_ok(&["snapshot", "list", "ways", "--tree"]).stdout;
    assert!(tree.contains("one") && tree.contains("(now)") && !tree.contains("undo"), "{tree}");
    let table = rig.run_ok(&["snapshot", "ls", "ways"]).stdout;
    assert!(table.contains("NAME") && table.contains("live") && !table.contains('\u{1b}'), "{table}");
}

/// A machine that was changed since comes back as it was captured. There is no command that changes one yet, so the
/// VM's record is edited as its format allows.
fn hardware_comes_back(guest: &Guest<'_>) {
    let captured = guest.rig.run_json(&["snapshot", "show", "ways@uno"]);
    assert!(captured["machine"].as_str().is_some_and(|machine| machine.starts_with("pc-q35-")), "{captured}");
    guest.play(&[Stop]);
    let path = guest.rig.vm_folder("ways").join("vm.json");
    let record = fs::read_to_string(&path).unwrap();
    let mut record: Value = serde_json::from_str(&record).unwrap();
    let words = record["hardware"]["command_line"].as_array_mut().unwrap();
    let cpus = words.iter().position(|word| word == "-smp").unwrap() + 1;
    words[cpus] = json!("2");
    record.as_object_mut().unwrap().remove("checksum");
    fs::write(&path, record.to_string()).unwrap();
    guest.play(&[Start]);
    assert_eq!((guest.ask("cpus", "CPUS"), guest.show()["cpus"].as_u64()), ("CPUS 2".into(), Some(2)));

    guest.rig.run_json(&["snapshot", "restore", "ways@uno"]);
    assert_eq!((guest.ask("cpus", "CPUS"), guest.show()["cpus"].as_u64()), ("CPUS 1".into(), Some(1)));
    assert_eq!(guest.show()["command_line"], captured["command_line"]);
    assert!(guest.console.verify(std::time::Duration::from_secs(60)).unwrap().ok);
    guest.play(&[Lacks("nothing")]);
}
