//! Power cuts at every step of every operation on a VM that does not run.
//!
//! A scenario sets a root up and does one operation. Then, for each step of it and some seeds, the folder is put together as a
//! power cut after that step could have left it, and the next command must find a root in which the operation is done or
//! undone, everything listed is whole, and nothing else has changed.
//!
//! What the guest had not flushed can be lost from the layer it writes to, and from nothing else. The store's own files
//! count as durable in the order in which they change; `crates/store/tests/it/crash.rs` cuts its power.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use vmrewind_engine::{Steps, VmStart};
use vmrewind_testkit::crash_disk::{CrashState, RecordedDisk};
use vmrewind_testkit::storage::{CrashCase, OnPanic, crash_seeds};

use crate::found::{self, FoundVm};
use crate::world::{World, address, engine, next_command, nobody, vm, write_into};

/// How many ways to lose what was pending are tried at each step.
const SEEDS: u64 = 6;

/// What can be found after a crash: each VM as it was at one of these times.
struct Expected {
    times: Vec<BTreeMap<String, FoundVm>>,
    base: (PathBuf, Vec<u8>),
}

impl Expected {
    fn new(world: &World) -> Self {
        let base = world.base();
        let content = std::fs::read(&base).unwrap();
        Self { times: vec![found::vms(&world.root())], base: (base, content) }
    }

    fn also_now(&mut self, world: &World) {
        self.times.push(found::vms(&world.root()));
    }

    /// Checks a root that the next command has looked at.
    fn check(&self, root: &Path) {
        let found = found::vms(root);
        let names: BTreeSet<&String> =
            self.times.iter().flat_map(BTreeMap::keys).chain(found.keys()).collect();
        for name in names {
            let allowed: Vec<_> = self.times.iter().map(|time| time.get(name)).collect();
            assert!(allowed.contains(&found.get(name)), "VM '{name}': {}", told(found.get(name), &allowed));
        }
        for name in found.keys() {
            assert_eq!(found::strays(root, name), BTreeSet::new(), "files that nobody would remove");
            assert!(!root.join("vms").join(name).join("journal.json").exists(), "'{name}' is recovered");
        }
        assert!(std::fs::read(&self.base.0).unwrap() == self.base.1, "the user's image");
    }
}

/// What was found, and what could have been, without the bytes.
fn told(found: Option<&FoundVm>, allowed: &[Option<&FoundVm>]) -> String {
    let brief = |vm: Option<&FoundVm>| match vm {
        None => "nothing".to_owned(),
        Some(vm) => {
            let sum = |bytes: &[u8]| {
                bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()))
            };
            let chain = |chain: &found::Chain| {
                chain.iter().map(|(id, content)| (id.clone(), sum(content))).collect::<Vec<_>>()
            };
            let snapshots: BTreeMap<_, Vec<_>> =
                vm.snapshots.iter().map(|(name, disks)| (name, disks.iter().map(chain).collect())).collect();
            format!("{snapshots:x?} current {:?} present {:?}", vm.current, vm.present)
        }
    };
    let allowed: Vec<String> = allowed.iter().map(|vm| brief(*vm)).collect();
    format!("found {}\nallowed {}", brief(found), allowed.join("\nor "))
}

/// Does operations one after the other, and tries a power cut after each of their steps.
fn at_every_step(mut world: World, operations: &[&dyn Fn(&mut World)]) {
    world.operation();
    let mut expected = Expected::new(&world);
    let first = world.disk.steps().len();
    for operation in operations {
        operation(&mut world);
        expected.also_now(&world);
    }
    let steps = world.disk.steps();
    assert!(steps.len() > first, "the operation did nothing");
    let mut tried = HashSet::new();
    for seed in crash_seeds(SEEDS) {
        for step in first..=steps.len() {
            let state = world.disk.crash(step, seed);
            if tried.insert(state.clone()) {
                let _case = case(&steps, step, seed);
                look(&state, &expected);
            }
        }
    }
}

/// Tells of the case where the test panics.
fn case(steps: &[String], step: usize, seed: u64) -> (OnPanic, OnStep) {
    let last = step.checked_sub(1).and_then(|last| steps.get(last)).cloned();
    (OnPanic(CrashCase { operation: step as u64, seed }), OnStep(last))
}

/// Names the last step that was done when it is dropped by a panic.
struct OnStep(Option<String>);

impl Drop for OnStep {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after: {}", self.0.as_deref().unwrap_or("nothing"));
        }
    }
}

/// The next commands on a root that a crash has left.
fn look(state: &CrashState, expected: &Expected) {
    let dir = tempfile::tempdir().unwrap();
    state.put_into(dir.path()).unwrap();
    let root = dir.path().join("root");
    if !root.exists() {
        return;
    }
    recover(&root);
    expected.check(&root);
    verify(&root);
    // Once more: what is recovered stays as it is.
    recover(&root);
    expected.check(&root);
    commands_work(&root);
}

/// What the next command does before anything else, and that it finds nothing damaged.
fn recover(root: &Path) {
    let listed = next_command(root).vm_list().unwrap();
    assert!(listed.unreadable.is_empty(), "{:?}", listed.unreadable);
    let snapshots = next_command(root).snapshot_list(None, true).unwrap();
    assert!(snapshots.unreadable.is_empty(), "{:?}", snapshots.unreadable);
}

/// Every snapshot is what it promises, for QEMU's tools too.
fn verify(root: &Path) {
    for snapshot in next_command(root).snapshot_list(None, true).unwrap().items {
        next_command(root).snapshot_verify(&address(&format!("{}@{}", snapshot.vm, snapshot.name))).unwrap();
    }
}

/// Whatever the crash left is in nobody's way.
fn commands_work(root: &Path) {
    for shown in next_command(root).vm_list().unwrap().items {
        next_command(root).vm_delete_plan(&vm(&shown.name)).err().inspect(|error| {
            assert!(error.to_string().contains("clones"), "{error}");
        });
    }
}

#[test]
fn vm_create() {
    at_every_step(World::empty(), &[&|world| world.create("web")]);
}

#[test]
fn snapshot_create() {
    at_every_step(World::with_a_snapshot(), &[&|world| world.snapshot("web", "b")]);
}

#[test]
fn snapshot_restore() {
    at_every_step(World::with_a_snapshot(), &[&|world| world.restore("web@a", false).unwrap()]);
}

#[test]
fn snapshot_restore_that_discards() {
    at_every_step(World::with_a_snapshot(), &[&|world| world.restore("web@a", true).unwrap()]);
}

#[test]
fn snapshot_rename() {
    let rename = |world: &mut World| {
        world.operation().snapshot_rename(&address("web@a"), &"z".parse().unwrap()).unwrap();
    };
    at_every_step(World::with_a_snapshot(), &[&rename]);
}

#[test]
fn snapshot_delete() {
    let mut world = World::with_a_snapshot();
    world.snapshot("web", "b");
    world.write("web", 3);
    world.restore("web@a", false).unwrap();
    world.disk.settle().unwrap();
    let delete = |name: &'static str| {
        move |world: &mut World| drop(world.operation().snapshot_delete(&[address(name)]).unwrap())
    };
    // The one that has the others below it last.
    at_every_step(world, &[&delete("web@undo-1"), &delete("web@b")]);
}

#[test]
fn vm_clone() {
    at_every_step(World::with_a_snapshot(), &[&|world| world.clones("web@a", "twin", 2)]);
}

#[test]
fn vm_delete() {
    let mut world = World::with_a_snapshot();
    world.clones("web@a", "twin", 1);
    world.disk.settle().unwrap();
    let delete = |world: &mut World| drop(world.operation().vm_delete(&vm("twin-1"), false).unwrap());
    at_every_step(world, &[&delete]);
}

#[test]
fn gc() {
    // gc itself changes the store only; a step of the engine's own shows that the root is still sound.
    let collect = |world: &mut World| drop(world.operation().gc().unwrap());
    at_every_step(World::with_a_snapshot(), &[&collect, &|world| world.snapshot("web", "b")]);
}

/// Recovery is crashed too: after each step of it, for the crashes of two operations at each of theirs.
#[test]
fn recovery() {
    for restores in [false, true] {
        let mut world = World::with_a_snapshot();
        world.operation();
        let mut expected = Expected::new(&world);
        let first = world.disk.steps().len();
        if restores {
            world.restore("web@a", false).unwrap();
        } else {
            world.snapshot("web", "b");
        }
        expected.also_now(&world);
        let steps = world.disk.steps();
        let mut tried = HashSet::new();
        for seed in crash_seeds(1) {
            for step in first..=steps.len() {
                let state = world.disk.crash(step, seed);
                let has_journal = state.content(Path::new("root/vms/web/journal.json")).is_some();
                if has_journal && tried.insert(state.clone()) {
                    let _case = case(&steps, step, seed);
                    crash_recovery(&state, &expected, seed);
                }
            }
        }
    }
}

fn crash_recovery(state: &CrashState, expected: &Expected, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    state.put_into(dir.path()).unwrap();
    let disk = RecordedDisk::over(dir.path(), &["root/store"]).unwrap();
    let engine = engine(&dir.path().join("root"), Arc::new(disk.clone()), 1 << 40);
    engine.operation(nobody()).vm_show(&vm("web")).unwrap();
    let steps = disk.steps();
    let mut tried = HashSet::new();
    for step in 0..=steps.len() {
        let state = disk.crash(step, seed + step as u64);
        if tried.insert(state.clone()) {
            let _case = case(&steps, step, seed + step as u64);
            look(&state, expected);
        }
    }
}

/// Guards layers that the undoing of a capture has kept: they have no manifest of their own, so nobody has synced them
/// when a later snapshot promises them. QEMU has not either, with `cache=unsafe`.
#[test]
fn a_layer_that_an_undo_kept_lasts_with_the_next_snapshot() {
    let mut world = World::with_a_snapshot();
    // A capture that died once the disk was switched, with its QEMU.
    let shown = world.operation().vm_show(&vm("web")).unwrap();
    let active = shown.disks[0].active.clone();
    let parent = active.file_stem().unwrap().to_str().unwrap().to_owned();
    let layer = active.with_file_name("00000000000000aa.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &format!("{parent}.qcow2")])
        .arg(&layer)
        .arg("1M")
        .status();
    assert!(made.unwrap().success());
    let journal = serde_json::json!({
        "version": 1, "operation": "snapshot create", "started": "2027-01-15T08:00:00Z",
        "phase": { "phase": "prepare", "cause": "capture", "image": null, "qemu": null, "guest_ran": true,
            "overlays": [{ "disk": shown.disks[0].name, "layer": "00000000000000aa", "parent": parent }] },
    });
    std::fs::write(world.root().join("vms/web/journal.json"), journal.to_string()).unwrap();
    world.disk.settle().unwrap();
    write_into(&active, 3);
    write_into(&layer, 4);
    // The recovery keeps both layers, as part of what is crashed.
    let recover = |world: &mut World| drop(world.operation().vm_show(&vm("web")).unwrap());
    at_every_step(world, &[&recover, &|world| world.snapshot("web", "b")]);
}

/// Guards an undo point: of a failed write-back the kernel tells one sync only, and the one that runs ahead of the commit
/// gets the answer. A snapshot that is promised all the same is lost with the power.
#[test]
fn a_lost_write_back_is_never_promised() {
    let mut world = World::with_a_snapshot();
    let steps = Arc::new(AwaitSync(world.disk.clone()));
    world.reopen(Some(steps));
    let active = world.operation().vm_show(&vm("web")).unwrap().disks[0].active.clone();
    // A QEMU without a guest: what matters is that there is one to be ended, which begins the sync.
    world.operation().vm_start(&vm("web"), VmStart::default()).unwrap();
    world.disk.lose_write_back(&active).unwrap();
    world.restore("web@a", false).unwrap_err();
    for seed in crash_seeds(SEEDS) {
        let dir = tempfile::tempdir().unwrap();
        world.disk.crash_now(seed).unwrap().put_into(dir.path()).unwrap();
        let _case = OnPanic(CrashCase { operation: world.disk.steps().len() as u64, seed });
        recover(&dir.path().join("root"));
        let listed = next_command(&dir.path().join("root")).snapshot_list(None, true).unwrap();
        let names: Vec<String> = listed.items.into_iter().map(|snapshot| snapshot.name).collect();
        assert_eq!(names, ["a"], "no undo point without its data");
    }
}

/// Guards operations on a disk that fails for a moment, at any one of their steps: what was not done can be done again,
/// what was done is whole, and nothing is left that nobody would remove.
#[test]
fn a_step_that_fails() {
    type Operation = fn(&mut World) -> vmrewind_engine::Result<()>;
    let operations: [(&str, Operation, Operation); 4] = [
        ("create", |_| Ok(()), |world| world.try_snapshot("web", "b")),
        ("restore", |_| Ok(()), |world| world.restore("web@a", false)),
        (
            "rename",
            |_| Ok(()),
            |world| world.operation().snapshot_rename(&address("web@a"), &"z".parse().unwrap()).map(drop),
        ),
        (
            "delete",
            |world| world.restore("web@a", false),
            |world| world.operation().snapshot_delete(&[address("web@undo-1")]).map(drop),
        ),
    ];
    for (name, prepare, operation) in operations {
        for step in 0.. {
            let mut world = World::with_a_snapshot();
            prepare(&mut world).unwrap();
            let (before, first) = (found::vms(&world.root()), world.disk.steps().len());
            world.disk.fail_at(first + step, rustix::io::Errno::IO.raw_os_error());
            let done = operation(&mut world);
            let steps = world.disk.steps();
            if steps.len() <= first + step {
                done.unwrap();
                assert!(step > 10, "{name} has steps to fail at");
                break;
            }
            recover(&world.root());
            verify(&world.root());
            let after = found::vms(&world.root());
            let at = format!("{name}, step {step}: {}, which gave {done:?}", steps[first + step]);
            assert_eq!(found::strays(&world.root(), "web"), BTreeSet::new(), "{at}");
            assert!(done.is_err() || after != before, "{at}");
            if after == before {
                let again = operation(&mut world);
                assert!(again.is_ok(), "{at}: {again:?}");
            }
        }
    }
}

/// Holds an operation that has begun to sync layers ahead until that is done, so that its answer is the first.
struct AwaitSync(RecordedDisk);

impl Steps for AwaitSync {
    fn reached(&self, step: &'static str) {
        while step == "sync-begun" && !self.0.steps().iter().any(|step| step.ends_with(".qcow2 (failed)")) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
