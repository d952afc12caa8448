//! Records that lie: what damage, or a hand that may write the root, can make of them is named and never followed.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmrewind_engine::{Error, ErrorKind, Hint};

use crate::found;
use crate::world::{World, address, next_command, vm};

/// A root with the VM `web` and its snapshot `a`, without power cuts.
struct Root {
    _world: World,
    root: PathBuf,
}

impl Root {
    fn new() -> Self {
        let world = World::with_a_snapshot();
        let root = world.root();
        Self { _world: world, root }
    }

    fn record(&self) -> PathBuf {
        self.root.join("vms/web/vm.json")
    }

    fn manifest(&self) -> PathBuf {
        let folder = std::fs::read_dir(self.root.join("vms/web/snapshots")).unwrap();
        folder
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|it| it == "json"))
            .unwrap()
    }

    /// What commands that read everything of the VM say.
    fn errors(&self) -> Vec<Error> {
        let command = || next_command(&self.root);
        let mut errors = command().vm_list().unwrap().unreadable;
        errors.extend(
            command().snapshot_list(Some(&vm("web")), true).map_or_else(|e| vec![e], |list| list.unreadable),
        );
        errors.extend(command().snapshot_delete(&[address("web@a")]).err());
        errors
    }
}

/// Changes one field of a record, as somebody does who knows of the checksum.
fn change(path: &Path, pointer: &str, value: Value) {
    let mut record = found::json(path);
    record.as_object_mut().unwrap().remove("checksum");
    *record.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer} in {}", path.display())) = value;
    std::fs::write(path, record.to_string()).unwrap();
}

/// Guards the file system around a VM's folder, and the numbers that are reckoned with.
#[test]
fn lies_in_manifests_and_records_are_damage() {
    let far = "../../../../../../tmp/x";
    let manifest = [
        ("/id", json!("../x")),
        ("/id", json!("00000000000000ff")),
        ("/name", json!(far)),
        ("/parent", json!("x")),
        ("/disks/0/name", json!(far)),
        ("/disks/0/name", json!("")),
        ("/disks/0/name", json!(".hidden")),
        ("/disks/0/layer", json!(far)),
        ("/disks/0/bytes", json!(u64::MAX)),
        ("/disks/0/bytes", json!(-1)),
        ("/created", json!("+300000-01-01T00:00:00Z")),
        ("/memory", json!({ "image": far, "bytes": 1, "zero_bytes": 0, "new_bytes": 0, "stored_bytes": 0 })),
        (
            "/memory",
            json!({ "image": "00000000000000ff", "bytes": 1, "zero_bytes": 0, "new_bytes": 0, "stored_bytes": 0 }),
        ),
    ];
    let record = [
        ("/id", json!(far)),
        ("/name", json!("other")),
        ("/disks/0/name", json!("..")),
        ("/disks/0/active", json!(far)),
        ("/disks/0/layers/0/id", json!(far)),
        ("/disks/0/base/virtual_bytes", json!(u64::MAX)),
        ("/current", json!(far)),
    ];
    let root = Root::new();
    let cases = manifest
        .map(|case| (root.manifest(), case))
        .into_iter()
        .chain(record.map(|case| (root.record(), case)));
    for (path, (field, value)) in cases {
        let whole = std::fs::read(&path).unwrap();
        change(&path, field, value.clone());
        let errors = root.errors();
        assert!(!errors.is_empty(), "{field}: {value} is believed");
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{field}: {value}: {error} {:?}", error.causes());
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert!(next_command(&root.root).snapshot_verify(&address("web@a")).is_ok(), "nothing else was touched");
}

/// Guards the journal of all: what it says is done at once, by whatever command comes next.
#[test]
fn a_journal_that_lies_is_not_carried_out() {
    let root = Root::new();
    let journal = root.root.join("vms/web/journal.json");
    let victim = root.root.parent().unwrap().join("00000000000000aa.qcow2");
    std::fs::write(&victim, "keep").unwrap();
    let plan = |overlay: Value, image: Value| {
        json!({
            "version": 1, "operation": "snapshot create", "started": "2027-01-15T08:00:00Z",
            "phase": { "phase": "prepare", "cause": "restore", "image": image, "qemu": null, "guest_ran": false, "overlays": [overlay] },
        })
    };
    let overlay = |disk: &str, layer: &str| json!({ "disk": disk, "layer": layer, "parent": null });
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let lies = [
        plan(overlay("../../../..", "00000000000000aa"), json!(null)).to_string(),
        plan(overlay("d", "../../../../00000000000000aa"), json!(null)).to_string(),
        plan(overlay("d", "00000000000000aa"), json!("../vms/web/vm")).to_string(),
        format!(r#"{{"version":1,"operation":{deep}}}"#),
        format!(r#"{{"version":{}}}"#, "9".repeat(400)),
    ];
    for lie in lies {
        std::fs::write(&journal, &lie).unwrap();
        let error = next_command(&root.root).vm_show(&vm("web")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{}", &lie[..lie.len().min(300)]);
    }
    assert_eq!(std::fs::read(&victim).unwrap(), b"keep");
    std::fs::remove_file(&journal).unwrap();
    assert!(next_command(&root.root).snapshot_verify(&address("web@a")).is_ok());
}

/// Guards commands from waiting for ever at a pipe, and from following a link, wherever a record should be.
#[test]
fn what_is_no_file_is_damage() {
    let root = Root::new();
    let folder = root.root.join("vms/web");
    let places =
        [folder.join("vm.json"), folder.join("journal.json"), root.manifest(), root.root.join("VERSION")];
    let elsewhere = root.root.parent().unwrap().join("elsewhere");
    for path in places {
        let aside = path.with_extension("aside");
        if path.exists() {
            std::fs::rename(&path, &aside).unwrap();
        }
        let pipe = |path: &Path| {
            let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        };
        let copy = |path: &Path| {
            // What it leads to is a good record: to be a link is the lie.
            let good = if aside.exists() { aside.clone() } else { root.record() };
            std::fs::copy(good, &elsewhere).unwrap();
            symlink(&elsewhere, path).unwrap();
        };
        let folder = |path: &Path| std::fs::create_dir(path).unwrap();
        for (what, make) in [("pipe", &pipe as &dyn Fn(&Path)), ("link", &copy), ("folder", &folder)] {
            make(&path);
            let told = std::panic::catch_unwind(|| next_command(&root.root));
            let errors: Vec<ErrorKind> = told.map_or_else(
                |_| vec![ErrorKind::Damaged],
                |operation| {
                    operation.snapshot_verify(&address("web@a")).err().iter().map(Error::kind).collect()
                },
            );
            assert_eq!(errors, [ErrorKind::Damaged], "a {what} at {}", path.display());
            if what == "folder" {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
        }
        if aside.exists() {
            std::fs::rename(&aside, &path).unwrap();
        }
    }
    assert!(next_command(&root.root).snapshot_verify(&address("web@a")).is_ok());
}

/// Guards roots of before there were checksums, and those who edit a record; and both from damage that leaves it readable.
#[test]
fn checksums_are_checked_where_they_are() {
    let root = Root::new();
    for path in [root.record(), root.manifest()] {
        let whole = std::fs::read_to_string(&path).unwrap();
        let without: String = {
            let mut record = found::json(&path);
            record.as_object_mut().unwrap().remove("checksum").expect("it has one");
            record.to_string()
        };
        std::fs::write(&path, &without).unwrap();
        assert!(root.shows(), "a record of the version without checksums");
        let flipped = whole.replacen("2027", "2028", 1);
        assert_ne!(flipped, whole);
        std::fs::write(&path, flipped).unwrap();
        let error = next_command(&root.root).snapshot_verify(&address("web@a")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        let hint = error.hint().unwrap();
        assert!(
            matches!(hint, Hint::ChangedRecord | Hint::DamagedSnapshot { changed: true, .. }),
            "{error:?}"
        );
        std::fs::write(&path, whole).unwrap();
    }
    assert!(root.shows());
}

impl Root {
    fn shows(&self) -> bool {
        next_command(&self.root).vm_show(&vm("web")).is_ok()
            && next_command(&self.root).snapshot_verify(&address("web@a")).is_ok()
    }
}
