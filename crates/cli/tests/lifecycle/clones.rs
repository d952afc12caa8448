//! Clones of a running guest: each goes on where the snapshot was, and none is noticed by another.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use vmrewind_testkit::guest::{Agent, DiskKind};
use vmrewind_testkit::rig::Action::{Damage, Reads, Restore, Snapshot, Stop, Verify, Write};
use vmrewind_testkit::rig::{Clone, Guest, GuestSpec, Rig};

use crate::{assert_says, rig};

fn spec() -> GuestSpec {
    GuestSpec::new("web").disk("a.raw", "raw", DiskKind::Virtio).disk("b.qcow2", "qcow2", DiskKind::Blockdev)
}

/// The files of shared memory.
fn memory_files(rig: &Rig) -> Vec<PathBuf> {
    let flat = rig.root().join("flat");
    rig.files().into_iter().map(|(path, _)| path).filter(|path| path.starts_with(&flat)).collect()
}

/// Guards the promise of a clone: memory and disks of the snapshot, then a life of its own; through captures, restores,
/// clones of it, power off and boot, while its parent goes on and is not touched.
#[test]
fn a_clone_is_a_vm_of_its_own() {
    let rig = rig();
    let parent = rig.guest(spec());
    parent.play(&[Write("note", "parent"), Snapshot("base"), Write("note", "later")]);
    let (clone, view) = parent.clone_as("base", "c1", &["--start"]);
    assert_eq!(view["clones"][0]["memory_shared"], true, "{view}");
    assert!(!memory_files(&rig).is_empty());
    clone.play(&[Reads("note", "parent"), Write("note", "clone"), Verify]);
    parent.play(&[Reads("note", "later"), Verify]);

    // Captured, damaged and brought back, on memory of its own; cloned again.
    clone.play(&[Snapshot("one"), Damage, Restore("one"), Reads("note", "clone")]);
    assert_eq!(memory_files(&rig), Vec::<PathBuf>::new(), "no one maps the memory file any more");
    let (second, view) = clone.clone_as("one", "c2", &["--start"]);
    assert_eq!(view["clones"][0]["start"], "warm");
    second.play(&[
        Reads("note", "clone"),
        Write("note", "grandchild"),
        Snapshot("two"),
        Damage,
        Restore("two"),
    ]);
    second.play(&[Reads("note", "grandchild")]);
    assert_eq!(rig.run_json(&["vm", "show", "c2"])["origin"]["vm"], "c1");

    // Off and on again: it boots.
    clone.play(&[Stop]);
    clone.check_disks();
    clone.start();
    clone.play(&[Reads("note", "clone"), Verify, Stop]);

    // The parent can be captured and go back, with clones on its layers.
    parent.play(&[Snapshot("other"), Restore("base"), Reads("note", "parent"), Restore("other"), Stop]);
    parent.check_disks();
    second.play(&[Verify, Stop]);
    second.check_disks();
    refuse_then_delete(&rig);
}

/// What clones read is kept until they are gone.
fn refuse_then_delete(rig: &Rig) {
    assert_says(&rig.run_fails(&["snapshot", "delete", "web@base", "-y"], 5), "c1");
    assert_says(&rig.run_fails(&["vm", "delete", "web", "-y"], 5), "c1");
    assert_says(&rig.run_fails(&["vm", "delete", "c1", "-y"], 5), "c2");
    rig.run_ok(&["vm", "delete", "c2", "-y"]);
    rig.run_ok(&["vm", "delete", "c1", "-y"]);
    rig.run_ok(&["vm", "delete", "web", "-y"]);
    assert_eq!(memory_files(rig), Vec::<PathBuf>::new());
}

/// Guards `--count`: all clones run, from one memory file, each with its own pages; and the file goes with the last.
#[test]
fn many_clones_share_one_memory_file() {
    const COUNT: usize = 4;
    let rig = rig();
    let parent = rig.guest(spec());
    parent.snapshot("base", &[]);
    let names: Vec<String> = (1..=COUNT).map(|number| format!("n-{number}")).collect();
    let expected: Vec<Clone<'_>> = names.iter().map(|name| parent.expect_clone("base", name)).collect();
    let view = rig.run_json(&["vm", "clone", "web@base", "n", "--count", "4", "--start"]);
    assert!(view["clones"].as_array().unwrap().iter().all(|clone| clone["state"] == "running"), "{view}");
    let clones: Vec<Guest<'_>> =
        expected.into_iter().map(|clone| clone.check_warm(&parent, "base")).collect();
    let flat: BTreeSet<_> =
        memory_files(&rig).iter().filter_map(|path| path.parent()?.to_str().map(str::to_owned)).collect();
    assert_eq!(flat.len(), 1, "{flat:?}");
    // One destroys its memory: the others and the parent don't notice.
    clones[0].play(&[Damage]);
    for clone in &clones[1..] {
        clone.play(&[Verify]);
    }
    parent.play(&[Verify]);
    for clone in &clones[..COUNT - 1] {
        rig.run_ok(&["vm", "stop", &clone.name, "--force"]);
    }
    rig.run_ok(&["vm", "list"]);
    assert!(!memory_files(&rig).is_empty(), "one clone still runs");
    clones[COUNT - 1].play(&[Verify, Stop]);
    rig.run_ok(&["vm", "list"]);
    assert_eq!(memory_files(&rig), Vec::<PathBuf>::new());
}

/// A clone that was not started keeps the snapshot, says how it will start, and can't be captured; then it goes on from
/// memory once, and boots ever after: memory of that instant does not fit disks that were written since.
#[test]
fn the_first_start_is_from_memory_and_the_second_is_not() {
    let rig = rig();
    let parent = rig.guest(GuestSpec::new("web").disk("a.raw", "raw", DiskKind::Virtio));
    parent.snapshot("base", &[]);
    let clone = parent.expect_clone("base", "later");
    let view = rig.run_json(&["vm", "clone", "web@base", "later"]);
    assert_eq!(
        (&view["clones"][0]["start"], &view["clones"][0]["state"]),
        (&json!("warm"), &json!("stopped"))
    );
    assert_eq!(rig.run_json(&["vm", "show", "later"])["next_start"], "warm");
    assert_says(&rig.run_fails(&["snapshot", "create", "later", "x"], 5), "was not started");
    assert_says(&rig.run_fails(&["snapshot", "delete", "web@base", "-y"], 5), "needs its memory");
    parent.play(&[Stop]);
    rig.run_ok(&["vm", "start", "later"]);
    let clone = clone.check_warm(&parent, "base");
    assert_eq!(rig.run_json(&["vm", "show", "later"])["next_start"], "cold");
    clone.play(&[Write("note", "mine"), Stop]);
    clone.start();
    clone.play(&[Reads("note", "mine"), Verify, Stop]);

    // The same choice at the command, and at the first start.
    for options in [&["--cold", "--start"][..], &["--cold"], &[]] {
        let clone = parent.expect_clone("base", "cold");
        let view = rig.run_json(&[&["vm", "clone", "web@base", "cold"], options].concat());
        match options {
            [] => drop(rig.run_ok(&["vm", "start", "cold", "--cold"])),
            ["--cold"] => drop(rig.run_ok(&["vm", "start", "cold"])),
            _ => assert_eq!(view["clones"][0]["start"], "cold"),
        }
        assert!(clone.check_booted().is_some(), "it finds what the snapshot's disk held");
        clone.guest.play(&[Stop]);
        rig.run_ok(&["vm", "delete", "cold", "-y"]);
    }
}

/// Guards clones of machines whose memory is not QEMU's default: with a backend it is shared, with several it is not,
/// and the clone is right in both.
#[test]
fn memory_of_other_kinds() {
    let rig = rig();
    let one = ["-object", "memory-backend-memfd,id=mem0,size=256M", "-machine", "memory-backend=mem0"];
    let two = [
        "-object",
        "memory-backend-ram,id=m0,size=128M",
        "-object",
        "memory-backend-ram,id=m1,size=128M",
        "-numa",
        "node,memdev=m0,cpus=0",
        "-numa",
        "node,memdev=m1",
    ];
    for (name, words, shared) in [("one", &one[..], true), ("two", &two[..], false)] {
        let spec =
            GuestSpec::new(name).disk(&format!("{name}.raw"), "raw", DiskKind::Virtio).with(|options| {
                options.memory_mib = 256;
                options.extra = words.iter().map(|word| (*word).to_owned()).collect();
            });
        let guest = rig.guest(spec);
        guest.play(&[Snapshot("base"), Damage, Restore("base")]);
        let (clone, view) = guest.clone_as("base", &format!("{name}-clone"), &["--start"]);
        assert_eq!(view["clones"][0]["memory_shared"], shared, "{view}");
        assert_eq!(view["notes"].to_string().contains("several memory backends"), !shared, "{view}");
        clone.play(&[Snapshot("again"), Damage, Restore("again"), Stop]);
        guest.play(&[Verify, Stop]);
    }
}

/// A VM without disks: nothing but its memory ties a clone to its parent.
#[test]
fn a_clone_without_disks_keeps_the_memory() {
    let rig = rig();
    let guest = rig.guest(GuestSpec::new("web"));
    guest.snapshot("base", &[]);
    rig.run_ok(&["vm", "clone", "web@base", "c"]);
    guest.play(&[Stop]);
    assert_says(&rig.run_fails(&["snapshot", "delete", "web@base", "-y"], 5), "'c'");
    assert_says(&rig.run_fails(&["vm", "delete", "web", "-y"], 5), "'c'");
    let view: Value = rig.run_json(&["vm", "start", "c"]);
    assert_eq!(view["state"], "running");
    rig.run_ok(&["vm", "delete", "web", "-y"]);
    assert_eq!(rig.run_json(&["vm", "show", "c"])["state"], "running");
    rig.run_ok(&["vm", "delete", "c", "-y", "--force"]);
}

/// A guest with an agent, a network card and a generation id.
fn connected() -> GuestSpec {
    const OPTIONS: [&str; 6] = [
        "-netdev",
        "user,id=net0",
        "-device",
        "virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:00:00:01",
        "-device",
        "vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
    ];
    GuestSpec::new("web").disk("a.raw", "raw", DiskKind::Virtio).with(|options| {
        options.agent = Agent::Running;
        options.extra = OPTIONS.map(str::to_owned).to_vec();
    })
}

/// What a guest sees of itself: name of its VM, address and cable of its card.
const WHO_AM_I: &str = "echo name=$VMREWIND_VM; ip link set eth0 up; sleep 1; \
    echo mac=$(cat /sys/class/net/eth0/address) cable=$(cat /sys/class/net/eth0/carrier)";

/// Guards the network and the guest's secrets: a warm clone is unplugged while it has its parent's address, is told by
/// another generation id that it is one, and is plugged only once it was made unique; one that boots has an address of
/// its own. A restore renews the generation id too.
#[test]
fn a_clone_is_unplugged_until_it_is_unique() {
    let rig = rig();
    let parent = rig.guest(connected());
    parent.snapshot("base", &[]);
    let inside = |view: &Value| view["clones"][0]["inside"]["stdout"].as_str().unwrap_or_default().to_owned();

    let (warm, view) = parent.clone_as("base", "warm", &["--start", "--run-inside", WHO_AM_I]);
    assert_eq!(inside(&view), "name=warm\nmac=52:54:00:00:00:01 cable=0\n", "{view}");
    assert_eq!(
        (&view["clones"][0]["links_down"], &view["clones"][0]["clock"]),
        (&json!(["nic0"]), &json!("set"))
    );
    assert!(view["not_unique"].to_string().contains("MAC addresses"), "{view}");
    warm.play(&[Verify]);
    let generation = |guest: &Guest<'_>| guest.qmp("query-vm-generation-id", &json!({}))["guid"].clone();
    let ids = [generation(&parent), generation(&warm)];
    assert_ne!(ids[0], ids[1]);
    parent.play(&[Restore("base")]);
    assert!(!ids.contains(&generation(&parent)), "a restore is told to the guest");

    let (_, view) = parent.clone_as("base", "up", &["--start", "--link-up", "--run-inside", "true"]);
    assert_eq!(view["clones"][0]["links_down"], json!([]), "{view}");
    let (_, view) = parent.clone_as("base", "plain", &["--start", "--link-up"]);
    assert_eq!(view["clones"][0]["links_down"], json!([]), "{view}");

    let run = rig.run(&[
        "--json",
        "vm",
        "clone",
        "web@base",
        "bad",
        "--start",
        "--link-up",
        "--run-inside",
        "exit 4",
    ]);
    assert_eq!(run.status, 3, "{run}");
    let bad = run.json()["clones"][0].clone();
    assert!(bad["error"].to_string().contains("exit status 4"), "{bad}");
    assert_eq!((&bad["state"], &bad["links_down"]), (&json!("running"), &json!(["nic0"])), "{bad}");

    for name in ["up", "plain", "bad"] {
        rig.run_ok(&["vm", "delete", name, "-y", "--force"]);
    }
    let view =
        rig.run_json(&["vm", "clone", "web@base", "cold", "--cold", "--start", "--run-inside", WHO_AM_I]);
    let told = inside(&view);
    let line = rig.run_json(&["vm", "show", "cold"])["command_line"].to_string();
    let mac = line.split("mac=").nth(1).unwrap().chars().take(17).collect::<String>();
    assert_ne!(mac, "52:54:00:00:00:01");
    assert!(told.contains(&format!("mac={mac} cable=1")), "{told}, {mac}");
}
