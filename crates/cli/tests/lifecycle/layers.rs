//! Whose files are whose: bases are the user's, layers go when nobody reads them, paths may be long and odd.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{
    Damage, Delete, Reads, Restore, RestoreDiscarding, Snapshot, Start, Stop, Verify, Write,
};
use vmrewind_testkit::rig::{Guest, GuestSpec, Rig};

use crate::{assert_says, rig};

/// The files of memory images. What they share stays until `gc`.
fn image_files(rig: &Rig) -> Vec<PathBuf> {
    let is_image = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "image");
    rig.files().into_iter().map(|(path, _)| path).filter(is_image).collect()
}

/// What a snapshot's memory cost: a second one of a guest that has done little is mostly there already.
fn costs_little(rig: &Rig, snapshot: &str) {
    let memory = &rig.run_json(&["snapshot", "show", snapshot])["memory"];
    let bytes = |field: &str| memory[field].as_u64().expect(field);
    let data = bytes("bytes") - bytes("zero_bytes");
    assert!(bytes("new_bytes") < data / 2 && bytes("stored_bytes") < data / 2, "{memory}");
}

/// Guards the user's images and disk space: a base is never written, what nobody needs is freed, what somebody needs is
/// not, and a deleted VM leaves its bases and nothing else.
#[test]
fn bases_stay_and_deleted_snapshots_go() {
    let rig = rig();
    let spec = GuestSpec::new("files").disk("a.raw", "raw", DiskKind::Virtio);
    let guest = rig.guest(spec.disk("b.qcow2", "qcow2", DiskKind::Blockdev));
    let bases: Vec<_> = guest.bases.iter().map(|base| (base.clone(), fs::read(base).unwrap())).collect();
    guest.play(&[Snapshot("one")]);
    let (store_of_one, layers_of_one) = (image_files(&rig), guest.layers());
    guest.play(&[Snapshot("two"), Snapshot("three")]);
    costs_little(&rig, "files@three");

    refuse_needed(&guest);
    guest.play(&[Delete("three"), Verify, Delete("two")]);
    assert_eq!(guest.layers().len(), layers_of_one.len(), "{:?}", guest.layers());
    assert_eq!(image_files(&rig).len(), store_of_one.len(), "memory images are left");
    assert!(layers_of_one.iter().filter(|layer| layer.exists()).count() >= layers_of_one.len() / 2);
    guest.play(&[Damage, Restore("one"), Stop]);

    delete_vm(&guest);
    for (base, before) in bases {
        assert!(before == fs::read(&base).unwrap(), "{} was written", base.display());
    }
}

/// What the present state or another snapshot reads through can't be deleted; a plan destroys nothing.
fn refuse_needed(guest: &Guest<'_>) {
    let rig = guest.rig;
    let files = image_files(rig);
    let error = rig.run_fails(&["snapshot", "delete", "-y", "files@one"], 5);
    assert_says(&error, "two");
    assert_says(&error, "the VM's present state");
    rig.run_fails(&["snapshot", "delete", "-y", "files@three"], 5);
    rig.run_fails(&["snapshot", "delete", "-y", "files@one", "files@nothing"], 4);
    rig.run_ok(&["snapshot", "list", "files"]);
    guest.play(&[RestoreDiscarding("one")]);
    let layers = guest.layers();
    let error = rig.run_fails(&["snapshot", "delete", "files@three"], 5);
    assert_says(&error, "-y");
    let plan = rig.run_json(&["snapshot", "delete", "--dry-run", "files@three"]);
    assert_says(&plan, "files@three");
    assert_eq!((image_files(rig), guest.layers()), (files, layers), "a plan or a refusal removed something");
    assert_says(&rig.run_json(&["snapshot", "show", "files@three"]), "three");
}

fn delete_vm(guest: &Guest<'_>) {
    let rig = guest.rig;
    guest.play(&[Start]);
    assert_says(&rig.run_fails(&["vm", "delete", "-y", "files"], 5), "runs");
    guest.play(&[Verify]);
    rig.run_ok(&["vm", "delete", "-y", "--force", "files"]);
    assert_eq!(rig.run_json(&["vm", "list"]), json!([]));
    assert!(rig.qemu_pids().is_empty(), "QEMU runs on");
    assert!(!rig.vm_folder("files").exists());
    assert_eq!(image_files(rig), Vec::<PathBuf>::new(), "memory images are left");
}

/// Guards sockets, whose paths can't be long, and QEMU's options, in which a comma separates.
#[test]
fn long_roots_and_odd_names_work() {
    let base = tempfile::Builder::new().prefix("rig-").tempdir().unwrap();
    let root = base.path().join("a folder, with words in its name".repeat(4)).join("and another");
    fs::create_dir_all(root.parent().unwrap()).unwrap();
    assert!(root.as_os_str().len() > 120);
    let rig = Rig::with_root(std::path::Path::new(env!("CARGO_BIN_EXE_vmrewind")), &root);
    let guest =
        rig.guest(GuestSpec::new("odd").disk("first, second,,third file.raw", "raw", DiskKind::Virtio).disk(
            "file=x,format=raw \"quoted\".qcow2",
            "qcow2",
            DiskKind::Blockdev,
        ));
    guest.play(&[
        Write("note", "x"),
        Snapshot("one"),
        Damage,
        Restore("one"),
        Reads("note", "x"),
        Snapshot("two"),
    ]);
    guest.play(&[Restore("one"), Restore("two"), Stop, Restore("two"), Stop]);
    let run = guest.show()["run"].as_str().unwrap().to_owned();
    rig.run_ok(&["vm", "delete", "odd", "-y"]);
    assert!(!std::path::Path::new(&run).exists(), "{run} is left behind");
}

/// A disk that its user grew must not shrink under the guest at the next snapshot or restore.
#[test]
fn a_disk_that_was_grown_keeps_its_size() {
    const GROWN: u64 = 96 << 20;
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("grown").disk("disk.raw", "raw", DiskKind::Virtio));
    guest.qmp("block_resize", &json!({ "device": "disk0", "size": GROWN }));
    let size_of_top =
        || guest.qmp("query-block", &json!({}))[0]["inserted"]["image"]["virtual-size"].as_u64();
    assert_eq!(size_of_top(), Some(GROWN));
    guest.snapshot("one", &[]);
    assert_eq!(size_of_top(), Some(GROWN));
    guest.restore("one", &[]);
    assert_eq!(size_of_top(), Some(GROWN));
    guest.stop();
    guest.check_disks();
}
