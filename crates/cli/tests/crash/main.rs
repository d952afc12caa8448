//! vmrewind and QEMU killed at every step of every operation, on real guests.
//!
//! Afterwards the guest runs or is cleanly stopped, nothing is half there, every layer is sound, and the next command
//! works. That nobody had to type a command for a paused guest to go on is seen by its ticks, before any is run.

mod clone;
mod create;
mod delete;
mod gc;
mod lazy;
mod restore;
mod start;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::{Guest, GuestSpec, Rig, Run, kill};

/// How long a command may take that was let go on.
const PATIENCE: Duration = Duration::from_secs(120);

fn rig() -> Rig {
    Rig::new(Path::new(env!("CARGO_BIN_EXE_vmrewind")))
}

/// A small guest with two disks of different formats.
fn small(name: &str) -> GuestSpec {
    GuestSpec::new(name)
        .disk("one.raw", "raw", DiskKind::Virtio)
        .disk("two.qcow2", "qcow2", DiskKind::Virtio)
        .with(|options| {
            options.memory_mib = 192;
            options.fill_mib = 32;
        })
}

/// The names of the VM's snapshots, undo points included.
fn names(rig: &Rig, vm: &str) -> Vec<String> {
    let list = rig.run_json(&["snapshot", "list", vm, "--all"]);
    let name = |view: &Value| view["name"].as_str().unwrap_or_default().to_owned();
    list.as_array().into_iter().flatten().map(name).collect()
}

/// What a guest does after vmrewind was killed, before any command is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// It goes on: it never stopped, or somebody let it go. Its ticks are waited for.
    Ticks,
    /// It does not run, or nothing is promised of it.
    Silent,
}

/// SIGKILL of vmrewind where the command stands at `step`. Then nothing but `snapshot list` must be needed for the root to
/// be in order.
#[track_caller]
fn kill_at(guest: &Guest<'_>, step: &str, arguments: &[&str], meanwhile: Meanwhile) {
    guest.rig.stop_at(step, arguments).kill();
    if meanwhile == Meanwhile::Ticks {
        guest.runs();
    }
    check_root(guest);
}

/// SIGKILL of the QEMU that was started last while the command stands at `step`; the command goes on to its end.
#[track_caller]
fn kill_qemu_at(rig: &Rig, step: &str, arguments: &[&str]) -> Run {
    let stopped = rig.stop_at(step, arguments);
    let Some(qemu) = newest_qemu(rig) else { panic!("no QEMU at {step}") };
    kill(qemu);
    stopped.go_on(PATIENCE)
}

/// The QEMU that was started last: pids can begin anew.
fn newest_qemu(rig: &Rig) -> Option<u32> {
    let start = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse::<u64>().ok()
    };
    rig.qemu_pids().into_iter().max_by_key(start)
}

/// The VM whose QEMU was killed has stopped, and the root is in order.
#[track_caller]
fn has_stopped(guest: &Guest<'_>, after: &str) {
    assert_eq!(guest.state(), "stopped", "after {after}");
    check_root(guest);
}

/// Checks what must hold on disk after any crash and one command.
#[track_caller]
fn check_root(guest: &Guest<'_>) {
    let list = guest.rig.run_json(&["snapshot", "list", &guest.name, "--all"]);
    let folder = guest.rig.vm_folder(&guest.name);
    assert!(!folder.join("journal.json").exists(), "an operation is left under way");
    let files = guest.rig.files();
    let left: Vec<_> = files.iter().filter(|(path, _)| path.to_string_lossy().ends_with(".part")).collect();
    assert!(left.is_empty(), "unfinished images: {left:?}");
    let images = files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "image")).count();
    let with_memory = list.as_array().into_iter().flatten().filter(|view| !view["memory"].is_null()).count();
    assert_eq!(images, with_memory, "each memory image is that of one snapshot");
    let chain_of = |view: &Value| view["chain"].as_array().cloned().unwrap_or_default();
    let show = guest.show();
    let chains: Vec<Value> = show["disks"].as_array().into_iter().flatten().flat_map(chain_of).collect();
    // The manifests name all layers of a snapshot, those below its own included.
    let manifests = files.iter().filter(|(path, _)| path.starts_with(folder.join("snapshots")));
    let manifests: String = manifests.filter_map(|(path, _)| fs::read_to_string(path).ok()).collect();
    let runs = !show["pid"].is_null();
    let is_active = |layer: &Path| show["disks"].to_string().contains(&format!("\"active\":{layer:?}"));
    for layer in guest.layers() {
        // What a running QEMU writes can't be judged from outside.
        if !runs || !is_active(&layer) {
            check_layer(&layer);
        }
        let listed = chains.iter().any(|path| path.as_str() == layer.to_str());
        let id = layer.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        assert!(listed || manifests.contains(&id), "layer {} belongs to nothing", layer.display());
    }
}

/// A layer is sound. Clusters allocated and not used are what a killed QEMU leaves (exit status 3): they are freed
/// before the layer is written on or frozen, so none is left once the VM was started and stopped again.
fn check_layer(layer: &Path) {
    let output = Command::new("qemu-img").args(["check", "-q", "-U", "-f", "qcow2"]).arg(layer).output();
    let output = output.expect("qemu-img runs");
    let sound = matches!(output.status.code(), Some(0 | 3));
    assert!(sound, "{}: {}", layer.display(), String::from_utf8_lossy(&output.stderr));
}
