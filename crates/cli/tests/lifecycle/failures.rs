//! What goes wrong: bases that were changed, commands in each other's way, damage.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Damage, Restore, Snapshot, Start, Stop, Unplug, Verify};
use vmrewind_testkit::rig::{Background, Guest, GuestSpec, Rig};

use crate::{assert_says, rig};

pub(crate) const SOON: Duration = Duration::from_secs(120);

/// Guards against building on a base that is not what it was: nothing is done, and what runs goes on.
#[test]
fn a_changed_base_is_noticed_before_anything_is_done() {
    let rig = rig();
    let spec = GuestSpec::new("changed").disk("touched.qcow2", "qcow2", DiskKind::Virtio);
    let guest = rig.guest(spec.disk("grown.raw", "raw", DiskKind::Virtio));
    guest.play(&[Snapshot("one")]);
    let [touched, grown] = &guest.bases[..] else { panic!("{:?}", guest.bases) };
    let refused = |arguments: &[&str], words: &str| {
        let before = (rig.files(), rig.qemu_pids());
        let error = rig.run_fails(arguments, 5);
        assert_says(&error, words);
        assert_says(&error, "base image");
        let same = |files: Vec<(PathBuf, u64)>| files.into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!((same(rig.files()), rig.qemu_pids()), (same(before.0), before.1), "something was done");
    };
    let create = ["snapshot", "create", "changed", "two"];
    let restore = ["snapshot", "restore", "changed@one"];

    let modified = fs::metadata(touched).unwrap().modified().unwrap();
    let file = File::options().write(true).open(touched).unwrap();
    file.set_modified(modified + Duration::from_nanos(1000)).unwrap();
    refused(&create, "touched.qcow2");
    refused(&restore, "touched.qcow2");
    guest.runs();
    rig.run_fails(&["snapshot", "verify", "changed@one"], 7);
    file.set_modified(modified).unwrap();
    drop(file);

    let (length, modified) = {
        let metadata = fs::metadata(grown).unwrap();
        (metadata.len(), metadata.modified().unwrap())
    };
    let file = File::options().write(true).open(grown).unwrap();
    file.set_len(length + 4096).unwrap();
    refused(&restore, "grown.raw");
    guest.verify_ok();
    guest.play(&[Unplug]);
    refused(&["vm", "start", "changed"], "grown.raw");
    refused(&create, "grown.raw");
    file.set_len(length).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    guest.play(&[Start, Snapshot("two"), Restore("one"), Stop]);
}

/// All files but the store's lock, which the first capture makes.
pub(crate) fn names(rig: &Rig) -> Vec<PathBuf> {
    rig.files().into_iter().map(|(path, _)| path).filter(|path| !path.ends_with("store/lock")).collect()
}

/// The guest runs, is right, and nothing is left of what failed.
#[track_caller]
pub(crate) fn unharmed(guest: &Guest<'_>, before: &[PathBuf]) {
    guest.runs();
    assert_eq!(guest.state(), "running");
    guest.verify_ok();
    assert_eq!(names(guest.rig), before, "something is left behind");
    assert_eq!(guest.rig.run_json(&["snapshot", "list", &guest.name]), json!([]));
    guest.check_layers();
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Begins a snapshot and holds the command still in the midst of it.
fn begin_and_hold(rig: &Rig, vm: &str, name: &str) -> Background {
    let journal = rig.vm_folder(vm).join("journal.json");
    let mut command = rig.spawn(&["snapshot", "create", vm, name, "--json"]);
    wait_until("the journal is there", || journal.exists());
    command.hold();
    assert!(command.is_running() && journal.exists());
    command
}

/// Guards a guest of 2 GiB, on which captures take long enough to get in the way: a second command finds the VM busy,
/// Ctrl-C leaves everything as before, and a damaged image is noticed before the running guest is given up for it.
#[test]
fn interrupted_disturbed_and_damaged_with_2_gib() {
    let rig = rig();
    let guest =
        rig.guest(GuestSpec::new("big").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
            options.memory_mib = 2048;
            options.cpus = 2;
            options.fill_mib = 1024;
        }));
    let before = names(&rig);
    let command = begin_and_hold(&rig, "big", "interrupted");
    command.interrupt();
    command.go_on();
    let run = command.wait(SOON);
    assert_eq!(run.status, 130, "{run}");
    assert_eq!(run.error()["kind"], "interrupted");
    unharmed(&guest, &before);

    let command = begin_and_hold(&rig, "big", "first");
    let error = rig.run_fails(&["snapshot", "create", "big", "second"], 6);
    assert_eq!(error["kind"], "busy");
    rig.run_fails(&["vm", "stop", "big", "--force"], 6);
    assert_eq!(rig.run_json(&["snapshot", "list", "big"]), json!([]), "it is not whole yet");
    assert_says(&guest.show(), "snapshot create");
    command.go_on();
    let run = command.wait(SOON);
    assert_eq!((run.status, run.json()["name"].as_str()), (0, Some("first")), "{run}");
    rig.run_fails(&["snapshot", "show", "big@second"], 4);

    guest.play(&[Snapshot("one"), Damage, Restore("one")]);
    damaged_image(&guest);
    guest.play(&[Restore("one"), Stop]);
}

/// One byte of the memory image is flipped and put right again.
fn damaged_image(guest: &Guest<'_>) {
    let rig = guest.rig;
    let id = rig.run_json(&["snapshot", "show", "big@one"])["id"].as_str().unwrap().to_owned();
    let store = rig.root().join("store");
    let is_of_image = |path: &Path| path.starts_with(&store) && path.to_string_lossy().contains(&id);
    let files = rig.files().into_iter().filter(|(path, _)| is_of_image(path));
    let (path, bytes) = files.max_by_key(|(_, bytes)| *bytes).unwrap();
    let flip = || {
        let _ = Command::new("chmod").arg("u+w").arg(&path).status();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, bytes / 2).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], bytes / 2).unwrap();
    };
    rig.run_ok(&["snapshot", "verify", "big@one"]);
    flip();
    let (pids, layers) = (rig.qemu_pids(), guest.layers());
    assert_eq!(rig.run_fails(&["snapshot", "verify", "big@one"], 7)["kind"], "damaged");
    // Read in full before the running guest is given up; a lazy restore finds it on its way.
    rig.run_fails(&["snapshot", "restore", "big@one", "--eager"], 7);
    assert_eq!((rig.qemu_pids(), guest.layers()), (pids, layers), "the running VM was touched");
    guest.play(&[Verify]);
    rig.run_ok(&["snapshot", "verify", "big@first"]);
    flip();
    rig.run_ok(&["snapshot", "verify", "big@one"]);
}
