//! Layers that were changed from outside, and a record that is older than they are: noticed before anything relies on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use vmrewind_engine::{Error, ErrorKind, Hint, Operation, VmRepair, VmStart};

use crate::found;
use crate::world::{World, address, next_command, vm};

const BOOT: VmStart = VmStart { paused: true, cold: false };

fn command(world: &World) -> Operation {
    next_command(&world.root())
}

fn record_of(world: &World, name: &str) -> PathBuf {
    world.root().join("vms").join(name).join("vm.json")
}

/// What a record says, in whatever order its layers stand, and however these were marked.
fn said(path: &Path) -> Value {
    let mut record = found::json(path);
    record.as_object_mut().unwrap().remove("checksum");
    for disk in record["disks"].as_array_mut().unwrap() {
        let layers = disk["layers"].as_array_mut().unwrap();
        layers.sort_by_key(|layer| found::text(&layer["id"]));
        for layer in layers {
            layer.as_object_mut().unwrap().remove("frozen");
        }
    }
    record
}

/// The frozen layer of a snapshot's only disk.
fn layer_of(world: &World, at: &str) -> PathBuf {
    let shown = command(world).snapshot_show(&address(at)).unwrap();
    let (vm, _) = at.split_once('@').unwrap();
    let disk = &shown.disks[0];
    world.root().join(format!("vms/{vm}/layers/{}/{}.qcow2", disk.name, disk.layer))
}

/// The VM `web` with snapshots `a` and `b` above each other, an undo point beside them, and a clone of `a`.
fn branched() -> World {
    let mut world = World::with_a_snapshot();
    world.snapshot("web", "b");
    world.write("web", 3);
    world.restore("web@a", false).unwrap();
    world.write("web", 4);
    world.clones("web@a", "twin", 1);
    world.write("twin-1", 5);
    world.snapshot("twin-1", "t");
    world
}

/// Changes the file at a path.
type Change = fn(&Path);
/// Does something in a root.
type Act = fn(&mut World);

/// Every way to change a frozen layer from outside that is to be noticed without reading its data.
const CHANGES: [(&str, Change); 6] = [
    ("longer", |path| append(path, 512)),
    ("written to", |path| append(path, 0)),
    ("gone", |path| fs::remove_file(path).unwrap()),
    ("cut off", |path| {
        let bytes = fs::read(path).unwrap();
        write_in_place(path, &bytes[..60]);
    }),
    ("no qcow2 file", |path| change(path, 1, b'x')),
    // The time set back: only the header tells.
    ("on another file", |path| {
        let bytes = fs::read(path).unwrap();
        let at = bytes.windows(6).position(|found| found == b".qcow2" || found == b"se.raw").unwrap();
        change(path, at, b'X');
    }),
];

fn append(path: &Path, bytes: usize) {
    let mut content = fs::read(path).unwrap();
    content.resize(content.len() + bytes, 0);
    write_in_place(path, &content);
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_900_000_000)).unwrap();
}

/// Changes one byte and nothing that a file system tells of.
fn change(path: &Path, at: usize, byte: u8) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] = byte;
    write_in_place(path, &bytes);
    fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
}

/// As the owner can, whatever the mode says.
fn write_in_place(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
}

/// What is refused where a layer below everything was changed.
fn refusals(world: &mut World) -> Vec<Error> {
    let mut errors = vec![
        command(world).vm_start(&vm("web"), BOOT).unwrap_err(),
        world.try_snapshot("web", "new").unwrap_err(),
        world.restore("web@b", true).unwrap_err(),
        world.restore("web@a", true).unwrap_err(),
        world.try_clones("web@b", "new", 1).unwrap_err(),
        command(world).snapshot_verify(&address("web@a")).unwrap_err(),
        command(world).snapshot_verify(&address("web@undo-1")).unwrap_err(),
    ];
    // A clone reads it too.
    errors.push(command(world).vm_start(&vm("twin-1"), BOOT).unwrap_err());
    errors.push(command(world).snapshot_verify(&address("twin-1@t")).unwrap_err());
    errors
}

/// Guards every state that reads through a layer from one that somebody has changed: it would come back as what it never was.
#[test]
fn a_changed_layer_is_told_before_it_is_read() {
    for (what, damage) in CHANGES {
        let mut world = branched();
        let layer = layer_of(&world, "web@a");
        let name = layer.file_stem().unwrap().to_str().unwrap().to_owned();
        damage(&layer);
        for error in refusals(&mut world) {
            let told = format!("{error} {}", error.causes().join(" "));
            assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {told}");
            assert!(told.contains(&name), "{what}: {told}");
        }
        let check = command(&world).check(false).unwrap();
        assert_eq!(
            check.damaged_snapshots,
            ["twin-1@t", "web@a", "web@b", "web@undo-1"],
            "{what}: {check:?}"
        );
        assert!(check.damage.iter().any(|damage| damage.what.contains(&name)), "{what}: {check:?}");
        assert!(command(&world).vm_list().unwrap().unreadable.is_empty(), "{what}");
    }
}

/// Guards those who mend a layer, or copy a root with a tool that keeps whole seconds only.
#[test]
fn a_layer_can_be_taken_as_it_is() {
    let mut world = branched();
    let layer = layer_of(&world, "web@a");
    let modified = fs::metadata(&layer).unwrap().modified().unwrap();
    let seconds = modified.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let set = |time| fs::File::open(&layer).unwrap().set_modified(time).unwrap();
    set(UNIX_EPOCH + Duration::from_secs(seconds));
    command(&world).snapshot_verify(&address("web@b")).unwrap();
    set(UNIX_EPOCH + Duration::from_secs(seconds + 1));
    let error = world.restore("web@b", true).unwrap_err();
    assert_eq!(error.hint(), Some(&Hint::DamagedLayer { vm: "web".into() }), "{error}");
    let repair = |dry_run| command(&world).vm_repair(&vm("web"), &VmRepair { dry_run, active: Vec::new() });
    let plan = repair(true).unwrap();
    assert!(plan.changes.len() == 1 && plan.changes[0].contains("is taken as it is"), "{plan:?}");
    assert_eq!(repair(false).unwrap().changes, plan.changes);
    assert_eq!(repair(false).unwrap().changes, Vec::<String>::new());
    world.restore("web@b", true).unwrap();
    command(&world).snapshot_verify(&address("web@undo-1")).unwrap();
}

/// Guards frozen layers from a `vm.json` that was put back: by it QEMU would write into one of them.
#[test]
fn an_older_record_is_not_believed() {
    // What is done after the copy was made that is put back.
    let later: [(&str, Act); 4] = [
        ("a snapshot", |world| world.snapshot("web", "new")),
        ("a restore", |world| world.restore("web@b", false).unwrap()),
        ("a restore that keeps nothing", |world| world.restore("web@b", true).unwrap()),
        ("several", |world| {
            world.snapshot("web", "new");
            world.write("web", 6);
            world.snapshot("web", "newer");
            world.restore("web@a", false).unwrap();
            world.write("web", 7);
        }),
    ];
    for (what, act) in later {
        let mut world = branched();
        let record = record_of(&world, "web");
        let old = fs::read(&record).unwrap();
        act(&mut world);
        let (before, right) = (found::vms(&world.root()), said(&record));
        fs::write(&record, &old).unwrap();

        let errors = [
            command(&world).vm_start(&vm("web"), BOOT).unwrap_err(),
            world.try_snapshot("web", "other").unwrap_err(),
            world.restore("web@a", false).unwrap_err(),
            world.try_clones("web@a", "other", 1).unwrap_err(),
            command(&world).snapshot_delete(&[address("web@b")]).unwrap_err(),
            command(&world).snapshot_rename(&address("web@b"), &"c".parse().unwrap()).unwrap_err(),
        ];
        for error in &errors {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
            assert_eq!(error.hint(), Some(&Hint::RepairVm { vm: "web".into() }), "{what}: {error}");
        }
        assert!(!command(&world).check(false).unwrap().ok, "{what}");

        let repair =
            |dry_run| command(&world).vm_repair(&vm("web"), &VmRepair { dry_run, active: Vec::new() });
        let plan = repair(true).unwrap();
        assert_eq!(fs::read(&record).unwrap(), old, "{what}: it was to be shown only");
        assert!(!plan.changes.is_empty(), "{what}");
        assert_eq!(repair(false).unwrap().changes, plan.changes, "{what}");
        assert_eq!(said(&record), right, "{what}");
        assert_eq!(fs::read(record.with_file_name("vm.json.old")).unwrap(), old, "{what}");
        assert!(found::vms(&world.root()) == before, "{what}: something was changed");
        works(&mut world, what);
    }
}

/// The VM is as good as one that was never damaged.
fn works(world: &mut World, what: &str) {
    let check = command(world).check(false).unwrap();
    assert!(check.ok, "{what}: {check:?}");
    world.snapshot("web", "works");
    world.write("web", 8);
    world.restore("web@b", true).unwrap();
    world.restore("web@a", true).unwrap();
    command(world).snapshot_delete(&[address("web@works")]).unwrap();
    let error = command(world).snapshot_delete(&[address("web@a")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{what}: its clone is known: {error}");
}

/// Guards a VM whose record is gone: its snapshots and layers say all that is needed.
#[test]
fn a_lost_record_is_made_anew() {
    let losses: [(&str, Change); 3] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("cut off", |path| {
            let text = fs::read(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        }),
        ("flipped", |path| {
            let text = fs::read_to_string(path).unwrap().replacen("\"pare", "\"pave", 1);
            fs::write(path, text).unwrap();
        }),
    ];
    for (what, lose) in losses {
        let mut world = branched();
        for name in ["web", "twin-1"] {
            let record = record_of(&world, name);
            let mut right = said(&record);
            lose(&record);
            let repaired = command(&world).vm_repair(&vm(name), &VmRepair::default()).unwrap();
            assert!(!repaired.changes.is_empty(), "{what}: {name}");
            let mut now = said(&record);
            // When it was made, nobody else has put down.
            now["created"].take();
            right["created"].take();
            assert_eq!(now, right, "{what}: {name}");
        }
        works(&mut world, what);
        command(&world).snapshot_verify(&address("twin-1@t")).unwrap();
    }
}

/// Guards against a guess where it can't be told what the VM wrote last, and where nothing tells what it was.
#[test]
fn what_cannot_be_told_is_asked() {
    let mut world = branched();
    let record = record_of(&world, "web");
    // The undo point's manifest is gone: its layer could be the active one.
    let undo = command(&world).snapshot_show(&address("web@undo-1")).unwrap();
    fs::remove_file(world.root().join(format!("vms/web/snapshots/{}.json", undo.id))).unwrap();
    let right = said(&record);
    fs::write(&record, "").unwrap();
    let error = command(&world).vm_repair(&vm("web"), &VmRepair::default()).unwrap_err();
    let Some(Hint::ChooseLayer { layers, .. }) = error.hint() else { panic!("{error}") };
    let active = found::text(&right["disks"][0]["active"]);
    assert!(layers.contains(&active) && layers.contains(&undo.disks[0].layer), "{layers:?}");
    let how = VmRepair { dry_run: false, active: vec![active] };
    command(&world).vm_repair(&vm("web"), &how).unwrap();
    assert_eq!(said(&record)["disks"], right["disks"]);

    let how = VmRepair { dry_run: false, active: vec!["../x".into()] };
    assert_eq!(command(&world).vm_repair(&vm("web"), &how).unwrap_err().kind(), ErrorKind::Usage);
    world.create("bare");
    fs::write(record_of(&world, "bare"), "").unwrap();
    let error = command(&world).vm_repair(&vm("bare"), &VmRepair::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("no snapshot that tells"), "{error}");
}
