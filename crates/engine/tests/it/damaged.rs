//! One damaged record among sound ones: it takes what it stands for, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vmrewind_engine::{ErrorKind, SnapshotListing};

use crate::found::{self, Chain};
use crate::world::{World, address, next_command, vm};

/// The VM `web`, off, with snapshots `a`, `b` and `c`, of which one's manifest is to be damaged.
struct Hurt {
    world: World,
    id: String,
    manifest: PathBuf,
    whole: Vec<u8>,
}

impl Hurt {
    /// Snapshot `b`, between the two others, is the one.
    fn new() -> Self {
        let mut world = World::with_a_snapshot();
        for (byte, name) in [(3, "b"), (4, "c")] {
            world.snapshot("web", name);
            world.write("web", byte);
        }
        let listed = world.operation().snapshot_list(None, true).unwrap().items;
        let id = listed.iter().find(|view| view.name == "b").unwrap().id.clone();
        let manifest = world.root().join(format!("vms/web/snapshots/{id}.json"));
        let whole = fs::read(&manifest).unwrap();
        Self { world, id, manifest, whole }
    }

    fn put_back(&self) {
        let _ = fs::remove_dir(&self.manifest);
        fs::write(&self.manifest, &self.whole).unwrap();
    }

    fn list(&self) -> SnapshotListing {
        next_command(&self.world.root()).snapshot_list(Some(&vm("web")), true).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.list().items.into_iter().map(|view| view.name).collect()
    }

    /// The content of every snapshot, `b` too: read by the documented format once its manifest is put back.
    fn content(&self) -> BTreeMap<String, Vec<Chain>> {
        found::vms(&self.world.root())["web"].snapshots.clone()
    }
}

/// Damages a file, given its path and content.
type Damage = fn(&Path, &[u8]);

/// The ways to damage a manifest, with what is left of the snapshot's name.
const DAMAGE: [(&str, Damage, Option<&str>); 6] = [
    ("cut off behind its name", |path, whole| fs::write(path, &whole[..120]).unwrap(), Some("b")),
    ("cut off", |path, whole| fs::write(path, &whole[..30]).unwrap(), None),
    ("empty", |path, _| fs::write(path, "").unwrap(), None),
    ("a flipped bit", |path, whole| flip(path, whole, "\"bytes\": ", 0), Some("b")),
    ("a flipped bit in the version", |path, whole| flip(path, whole, "\"version\": ", 1), Some("b")),
    (
        "a folder",
        |path, _| {
            fs::rename(path, path.with_extension("aside")).unwrap();
            fs::create_dir(path).unwrap();
        },
        None,
    ),
];

/// Flips a bit of the digit behind `field`.
fn flip(path: &Path, whole: &[u8], field: &str, bit: u8) {
    let at = whole.windows(field.len()).position(|found| found == field.as_bytes()).unwrap() + field.len();
    let mut flipped = whole.to_vec();
    flipped[at] ^= 1 << bit;
    fs::write(path, flipped).unwrap();
}

/// Guards all other snapshots of a VM, and the VM, from a manifest that can't be read; and what that one names from them.
#[test]
fn a_damaged_manifest_takes_its_own_snapshot_only() {
    for (what, damage, seeming) in DAMAGE {
        let mut hurt = Hurt::new();
        let before = hurt.content();
        damage(&hurt.manifest, &hurt.whole);
        let root = hurt.world.root();
        let command = || next_command(&root);

        let listed = hurt.list();
        assert_eq!((listed.items.len(), listed.unreadable.len()), (2, 0), "{what}");
        let damaged: Vec<_> =
            listed.damaged.iter().map(|one| (one.id.as_str(), one.name.as_deref())).collect();
        assert_eq!(damaged, [(hurt.id.as_str(), seeming)], "{what}");
        let shown = command().vm_show(&vm("web")).unwrap();
        assert_eq!((shown.snapshots, &shown.damaged_snapshots), (2, &vec![hurt.id.clone()]), "{what}");
        let check = command().check(false).unwrap();
        assert_eq!((check.ok, check.damaged_snapshots), (false, vec![format!("web@{}", hurt.id)]), "{what}");

        command().snapshot_verify(&address("web@c")).unwrap();
        for name in ["b", hurt.id.as_str()] {
            let error = hurt.world.restore(&format!("web@{name}"), false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
            assert!(format!("{error:?}").contains(&hurt.id), "{what}: {error:?}");
        }
        assert_eq!(
            hurt.world.restore("web@nobody", false).unwrap_err().kind(),
            match seeming {
                Some(_) => ErrorKind::NotFound,
                None => ErrorKind::Damaged,
            }
        );

        // What is discarded may be the damaged one's; what is kept, is kept as an undo point all the same.
        hurt.world.restore("web@a", true).unwrap();
        hurt.world.write("web", 5);
        hurt.world.restore("web@c", false).unwrap();
        hurt.world.snapshot("web", "d");
        hurt.world.clones("web@c", "twin", 1);
        command().snapshot_rename(&address("web@c"), &"renamed".parse().unwrap()).unwrap();
        assert_eq!(hurt.names(), ["a", "renamed", "undo-1", "d"], "{what}");
        command().gc().unwrap();
        let error = command().snapshot_delete(&[address("web@undo-1")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{what}: {error}");
        assert!(error.to_string().contains(&hurt.id), "{what}: {error}");

        hurt.put_back();
        command().snapshot_verify(&address("web@b")).unwrap();
        let after = hurt.content();
        assert!(after["b"] == before["b"] && after["a"] == before["a"], "{what}: layers of it are gone");

        damage(&hurt.manifest, &hurt.whole);
        let plan = command().snapshot_delete(&[address(&format!("web@{}", hurt.id))]).unwrap();
        assert_eq!(plan.snapshots, [format!("web@{}", hurt.id)], "{what}");
        assert!(hurt.list().damaged.is_empty() && command().check(false).unwrap().ok, "{what}");
        assert_eq!(found::strays(&root, "web"), Default::default(), "{what}");
        let left = hurt.content();
        assert!(left["a"] == after["a"] && left["d"] == after["d"] && left["undo-1"] == after["undo-1"]);
        command().snapshot_delete(&[address("web@undo-1")]).unwrap();
        command().vm_delete(&vm("twin-1"), false).unwrap();
        command().vm_delete(&vm("web"), false).unwrap();
    }
}

/// Guards a snapshot that a newer vmrewind wrote: to be unable to read it is no reason to give it up.
#[test]
fn a_manifest_of_a_newer_format_is_kept() {
    let hurt = Hurt::new();
    let mut manifest = found::json(&hurt.manifest);
    manifest["version"] = 2.into();
    manifest.as_object_mut().unwrap().remove("checksum");
    fs::write(&hurt.manifest, manifest.to_string()).unwrap();
    assert_eq!(hurt.names(), ["a", "c"]);
    let error = next_command(&hurt.world.root())
        .snapshot_delete(&[address(&format!("web@{}", hurt.id))])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.causes()[0].contains("version 2"), "{error:?}");
    assert!(hurt.manifest.exists());
}

/// What every command says of a root: the VMs that can be read, after one of each was done to `web`.
fn all_work(world: &mut World, what: &str) {
    let root = world.root();
    let command = || next_command(&root);
    world.snapshot("web", "new");
    world.restore("web@new", true).unwrap();
    world.clones("web@new", "twin", 1);
    command().snapshot_verify(&address("web@new")).unwrap();
    command().vm_delete(&vm("twin-1"), false).unwrap();
    world.restore("web@a", true).unwrap();
    command().snapshot_delete(&[address("web@new")]).unwrap();
    command().usage(&[]).unwrap();
    command().gc().unwrap_or_else(|error| panic!("{what}: {error} {:?}", error.causes()));
    world.create("other");
    command().vm_delete(&vm("other"), false).unwrap();
}

/// Guards a root from what else is put into its folders: by an editor, a file system, a hand that slips.
#[test]
fn strays_are_in_nobody_s_way() {
    let mut world = World::with_a_snapshot();
    let root = world.root();
    let file = |path: &str| fs::write(root.join(path), "not ours").unwrap();
    let folder = |path: &str| fs::create_dir_all(root.join(path)).unwrap();
    let link = |path: &str| std::os::unix::fs::symlink("/nowhere", root.join(path)).unwrap();
    let pipe = |path: &str| {
        assert!(std::process::Command::new("mkfifo").arg(root.join(path)).status().unwrap().success());
    };
    let disk = fs::read_dir(root.join("vms/web/layers")).unwrap().next().unwrap().unwrap().path();
    let disk = disk.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    for path in ["vms", "vms/web", "vms/web/snapshots", "vms/web/layers", &disk, "store", "flat"] {
        folder(path);
        file(&format!("{path}/notes.txt"));
        file(&format!("{path}/notes.json"));
        folder(&format!("{path}/lost+found"));
        folder(&format!("{path}/backup/deeper"));
        folder(&format!("{path}/dir.json"));
        link(&format!("{path}/link"));
        pipe(&format!("{path}/pipe.json"));
        pipe(&format!("{path}/pipe"));
    }
    pipe(&format!("{disk}/pipe.qcow2"));
    file("store/00000000000000aa.part");
    let listed = next_command(&root).vm_list().unwrap();
    let names: Vec<_> = listed.items.iter().map(|view| view.name.as_str()).collect();
    assert_eq!((names, listed.unreadable.len()), (vec!["web"], 0));
    let snapshots = next_command(&root).snapshot_list(None, true).unwrap();
    assert!(snapshots.unreadable.is_empty() && snapshots.damaged.is_empty(), "{snapshots:?}");
    let check = next_command(&root).check(true).unwrap();
    assert!(check.ok, "{check:?}");
    all_work(&mut world, "strays");
    for stray in ["notes.txt", "backup", "link"] {
        let error = next_command(&root).vm_show(&vm(stray)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{stray}");
        let error = next_command(&root).snapshot_list(Some(&vm(stray)), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{stray}");
        let error = world.try_create(stray).unwrap_err();
        assert!(error.to_string().contains("is no VM, and in the way"), "{error}");
    }
    assert!(!root.join("vms/backup/lock").exists(), "a stray folder was taken for a VM's");
    next_command(&root).vm_delete(&vm("web"), false).unwrap();
    assert!(root.join("vms/notes.txt").exists());
}

/// Guards all VMs from one whose record is damaged, or gone; and what that one reads of theirs.
#[test]
fn a_vm_without_its_record_takes_no_other() {
    let breaks: [(&str, Damage); 4] = [
        ("missing", |path, _| fs::remove_file(path).unwrap()),
        ("cut off", |path, _| fs::write(path, "{\"version\": 1").unwrap()),
        ("another VM's", |path, whole| {
            let text = String::from_utf8_lossy(whole).replace("lost-1", "other");
            fs::write(path, text).unwrap();
        }),
        ("newer", |path, _| fs::write(path, "{\"version\": 99}").unwrap()),
    ];
    for (what, damage) in breaks {
        let mut world = World::with_a_snapshot();
        world.clones("web@a", "lost", 1);
        let root = world.root();
        let record = root.join("vms/lost-1/vm.json");
        let whole = fs::read(&record).unwrap();
        damage(&record, &whole);
        let listed = next_command(&root).vm_list().unwrap();
        let states: Vec<_> =
            listed.items.iter().map(|view| (view.name.as_str(), view.state.as_str())).collect();
        let state = if what == "newer" { "unreadable" } else { "damaged" };
        assert_eq!(states, [("lost-1", state), ("web", "stopped")], "{what}");
        let check = next_command(&root).check(false).unwrap();
        assert!(!check.ok && format!("{check:?}").contains("vm.json"), "{what}: {check:?}");
        all_work(&mut world, what);
        // Its layers lie on those of the snapshot that it was made of.
        let error = next_command(&root).snapshot_delete(&[address("web@a")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{what}: {error}");
        assert!(error.to_string().contains("lost-1"), "{what}: {error}");
        let error = next_command(&root).vm_delete(&vm("web"), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{what}: {error}");
        fs::write(&record, whole).unwrap();
        next_command(&root).vm_delete(&vm("lost-1"), false).unwrap();
        next_command(&root).vm_delete(&vm("web"), false).unwrap();
    }
}

/// Guards layers from a folder of manifests that is gone: nothing says what they are needed for.
#[test]
fn lost_manifests_are_not_taken_for_none() {
    let mut world = World::with_a_snapshot();
    let (folder, aside) = (world.root().join("vms/web/snapshots"), world.root().join("vms/web/aside"));
    fs::rename(&folder, &aside).unwrap();
    assert_eq!(world.try_snapshot("web", "b").unwrap_err().kind(), ErrorKind::Damaged);
    fs::rename(&aside, &folder).unwrap();
    world.snapshot("web", "b");
}
