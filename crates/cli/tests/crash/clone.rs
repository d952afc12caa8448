//! `vm clone` and the first start of a clone, interrupted.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use vmrewind_testkit::rig::{Guest, Rig, kill};

use super::{PATIENCE, kill_qemu_at, rig, small};

/// What is in the folder of VMs: names, drafts as `draft`.
fn entries(rig: &Rig) -> Vec<String> {
    let entries = fs::read_dir(rig.root().join("vms")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.map(|name| if name.starts_with(".new-") { "draft".into() } else { name }).collect();
    names.sort();
    names
}

/// Makes drafts old enough to be swept.
fn age_drafts(rig: &Rig) {
    for entry in fs::read_dir(rig.root().join("vms")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".new-") {
            #[expect(clippy::disallowed_methods, reason = "set on a file, as time would")]
            let old = SystemTime::now() - Duration::from_secs(60);
            let draft = File::open(entry.path()).expect("a draft is a folder");
            draft.set_times(FileTimes::new().set_modified(old)).expect("it is ours");
        }
    }
}

/// A VM with a snapshot `base` of its running guest, stopped.
fn stopped_parent(rig: &Rig) -> Guest<'_> {
    let parent = rig.guest(small("vm"));
    parent.snapshot("base", &[]);
    parent.stop();
    parent
}

/// The clone stands still, and its first start is still to come.
#[track_caller]
fn starts_warm(rig: &Rig, clone: &str) {
    let view: Value = rig.run_json(&["vm", "show", clone]);
    assert_eq!((&view["state"], &view["next_start"]), (&"stopped".into(), &"warm".into()), "{view}");
}

/// SIGKILL while clones are made: each is whole or not there, and what is left of the others neither keeps the parent nor
/// stays.
#[test]
fn vmrewind_killed_while_clones_are_made() {
    let rig = rig();
    let parent = Guest::create(&rig, small("vm"));
    rig.run_ok(&["snapshot", "create", "vm", "base"]);
    for (step, left) in [
        ("draft-made", &["draft", "draft", "draft", "vm"][..]),
        ("clone-appeared", &["c-1", "draft", "draft", "vm"]),
    ] {
        rig.stop_at(step, &["vm", "clone", "vm@base", "c", "--count", "3"]).kill();
        assert_eq!(entries(&rig), left, "after {step}");
        let clones = rig.run_json(&["snapshot", "show", "vm@base"])["clones"].clone();
        let count = clones.as_array().map(Vec::len);
        assert_eq!(count, Some(usize::from(step == "clone-appeared")), "{clones}");
        age_drafts(&rig);
        rig.run_ok(&["vm", "list"]);
        assert!(!entries(&rig).contains(&"draft".to_owned()), "drafts stay after {step}");
    }
    rig.run_ok(&["vm", "start", "c-1"]);
    rig.run_ok(&["vm", "delete", "c-1", "-y", "--force"]);
    rig.run_ok(&["vm", "clone", "vm@base", "c", "--count", "3"]);
    parent.start();
    parent.verify_ok();
    parent.stop();
}

/// SIGKILL at any step of a first start: it is still to come, or the guest goes on; and never does it go on twice.
#[test]
fn vmrewind_killed_at_every_step_of_a_first_start() {
    let rig = rig();
    let parent = stopped_parent(&rig);
    for (step, started) in [
        ("flat-written", false),
        ("journal-prepared", false),
        ("qemu-spawned", false),
        ("qemu-started", false),
        ("state-loaded", false),
        ("committed", true),
        ("record-written", true),
        ("guest-resumed", true),
    ] {
        let clone = parent.expect_clone("base", "c");
        rig.run_ok(&["vm", "clone", "vm@base", "c"]);
        rig.stop_at(step, &["vm", "start", "c"]).kill();
        let view = rig.run_json(&["vm", "show", "c"]);
        let (state, next) = if started { ("running", "cold") } else { ("stopped", "warm") };
        assert_eq!(
            (&view["state"], &view["next_start"]),
            (&state.into(), &next.into()),
            "after {step}: {view}"
        );
        assert_eq!(rig.qemu_pids().len(), usize::from(started), "after {step}");
        assert!(!rig.vm_folder("c").join("journal.json").exists(), "after {step}");
        if !started {
            rig.run_ok(&["vm", "start", "c"]);
        }
        let guest = clone.check_warm(&parent, "base");
        guest.stop();
        guest.check_disks();
        rig.run_ok(&["vm", "delete", "c", "-y"]);
        rig.run_ok(&["vm", "list"]);
        assert!(
            fs::read_dir(rig.root().join("flat")).is_ok_and(|mut left| left.next().is_none()),
            "after {step}"
        );
    }
}

/// SIGKILL of the clone's QEMU in its first start: the command says so, nothing was written, and it can be done again.
#[test]
fn qemu_killed_in_a_first_start() {
    let rig = rig();
    let parent = stopped_parent(&rig);
    rig.run_ok(&["vm", "clone", "vm@base", "c"]);
    for step in ["qemu-started", "state-loaded"] {
        let run = kill_qemu_at(&rig, step, &["vm", "start", "c"]);
        assert_ne!(run.status, 0, "at {step}: {run}");
        starts_warm(&rig, "c");
    }
    let clone = parent.expect_clone("base", "c");
    rig.run_ok(&["vm", "start", "c"]);
    clone.check_warm(&parent, "base").stop();
}

/// SIGKILL of one QEMU while several clones start: the result says which one is not there, the others run, and it can be
/// started again.
#[test]
fn one_of_several_first_starts_is_lost() {
    let rig = rig();
    let parent = stopped_parent(&rig);
    let names = ["c-1", "c-2", "c-3"];
    let clones = names.map(|name| parent.expect_clone("base", name));
    let clone = ["--json", "vm", "clone", "vm@base", "c", "--count", "3", "--start"];
    let stopped = rig.stop_at("qemu-started", &clone);
    kill(rig.qemu_pids()[0]);
    let run = stopped.go_on(PATIENCE);
    assert_eq!(run.status, 3, "{run}");
    let made = run.json()["clones"].as_array().cloned().unwrap_or_default();
    let lost: Vec<&str> = made
        .iter()
        .filter(|made| !made["error"].is_null())
        .filter_map(|made| made["name"].as_str())
        .collect();
    let [lost] = lost[..] else { panic!("one is lost: {run}") };
    starts_warm(&rig, lost);
    rig.run_ok(&["vm", "start", lost]);
    for clone in clones {
        clone.check_warm(&parent, "base").stop();
    }
}

/// A memory file that somebody changed: clones that run on it go on, no other one is started on it and it is said why;
/// and where nobody uses it any more it is made again.
#[test]
fn a_spoilt_memory_file() {
    let rig = rig();
    let parent = stopped_parent(&rig);
    let (running, _) = parent.clone_as("base", "running", &["--start"]);
    rig.run_ok(&["vm", "clone", "vm@base", "c"]);
    let flat = fs::read_dir(rig.root().join("flat")).expect("a clone runs").flatten().next();
    let ram = flat.expect("it has its memory from here").path().join("ram");
    let bytes = fs::metadata(&ram).expect("it is there").len();
    let refused = || {
        let words = rig.run_fails(&["vm", "start", "c"], 1).to_string();
        assert!(words.contains("memory file") && words.contains("stop the clones"), "{words}");
    };
    // The clone that runs keeps the file it has.
    fs::remove_file(&ram).expect("it is ours");
    refused();
    File::create(&ram).and_then(|file| file.set_len(bytes / 2)).expect("it is ours");
    refused();
    running.verify_ok();
    assert_eq!(rig.run_json(&["vm", "show", "c"])["next_start"], "warm");
    kill(rig.qemu_pids()[0]);
    let clone = parent.expect_clone("base", "c");
    while !rig.qemu_pids().is_empty() {}
    rig.run_ok(&["vm", "start", "c"]);
    clone.check_warm(&parent, "base").stop();
}
