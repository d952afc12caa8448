//! Lazy restores: the guest runs before its memory is there, whoever dies meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;
use vmrewind_testkit::guest::{DiskKind, Mix};
use vmrewind_testkit::rig::Action::{Damage, Reads, Restore, Snapshot, Start, Stop, Verify, Write};
use vmrewind_testkit::rig::{Guest, GuestSpec, Rig, kill};

use crate::failures::wait_until;
use crate::{assert_says, rig};

/// A guest with much memory to come.
fn large(name: &str, memory_mib: u32) -> GuestSpec {
    GuestSpec::new(name).disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
        options.memory_mib = memory_mib;
        options.fill_mib = memory_mib / 2;
    })
}

/// Restores lazily, or says that this host can't and gives false: eagerly it was checked all the same.
#[track_caller]
fn restores_lazily(guest: &Guest<'_>, name: &str) -> bool {
    let view = guest.restore(name, &[]).view;
    if view["mode"] == "lazy" {
        return true;
    }
    assert_eq!(view["mode"], "eager", "{view}");
    assert_says(&view, "lazy restore is not possible");
    eprintln!("left out, since this host restores eagerly only: {view}");
    false
}

/// Guards the promise of a lazy restore: the guest goes on at once where it was, with memory that is right at once and
/// when all of it has come, on both chipsets; and the next one knows what it touches first.
#[test]
fn memory_is_right_at_once_and_later() {
    let rig = rig();
    for (name, machine, cpus, memory_mib) in [("old", "pc", 1, 512), ("new", "q35", 2, 2048)] {
        let guest = rig.guest(large(name, memory_mib).with(|options| {
            options.machine = machine.into();
            options.cpus = cpus;
        }));
        guest.play(&[Write("note", "kept"), Snapshot("one"), Damage]);
        if restores_lazily(&guest, "one") {
            assert_eq!(guest.state(), "running");
            guest.verify_ok();
            let shown = rig.run_json(&["snapshot", "show", &guest.address("one")]);
            let set = &shown["working_set"];
            assert!(set["pages"].as_u64() > Some(10) && set["restores"] == 1, "{shown}");
            let text = rig.run_ok(&["snapshot", "show", &guest.address("one")]).stdout;
            assert!(text.contains("working set") && text.contains("learnt from one restore"), "{text}");
        }
        guest.play(&[Reads("note", "kept"), Restore("one"), Snapshot("two"), Damage, Restore("two")]);
        guest.play(&[Restore("one"), Verify, Stop, Start, Verify, Stop]);
        rig.run_ok(&["vm", "delete", name, "-y"]);
    }
}

/// Guards commands given while memory is still to come: a capture waits for it, the snapshot that is read can't go,
/// and stopping, restoring again and deleting the VM work at once.
#[test]
fn commands_meanwhile_work_or_wait() {
    let rig = rig();
    let guest = rig.guest(large("busy", 2048).with(|options| options.mix = Mix::Random));
    guest.play(&[Snapshot("one")]);
    if !restores_lazily(&guest, "one") {
        return;
    }
    // Held still, so that there is time for all this; on a fast machine all memory may have come before that.
    let mut tries = 0;
    let show = loop {
        assert_eq!(rig.run_json(&["snapshot", "restore", "busy@one"])["mode"], "lazy");
        signal_servers(&rig, "busy", "-STOP");
        let show = guest.show();
        tries += 1;
        if show["state"] == "restoring" || tries == 10 {
            break show;
        }
        signal_servers(&rig, "busy", "-CONT");
    };
    assert_eq!(
        (&show["state"], &show["restore"]["snapshot"]),
        (&"restoring".into(), &"one".into()),
        "{show}"
    );
    assert!(show["restore"]["total_bytes"].as_u64() > Some(1 << 30), "{show}");
    let listed = rig.run_ok(&["vm", "list"]).stdout;
    assert!(listed.contains("restoring") && listed.contains('%'), "{listed}");
    assert_says(&rig.run_fails(&["vm", "start", "busy"], 5), "runs already");
    let error = rig.run_fails(&["snapshot", "delete", "busy@one", "-y"], 6);
    assert_says(&error, "still gets its memory");
    let mut waiting = rig.spawn(&["snapshot", "create", "busy", "two", "--json"]);
    // It waits with the VM in its hands.
    wait_until("it holds the VM", || !waiting.is_running() || is_held(&rig, "busy"));
    assert_says(&rig.run_fails(&["vm", "start", "busy"], 6), "busy");
    signal_servers(&rig, "busy", "-CONT");
    let run = waiting.wait(Duration::from_secs(120));
    assert_eq!(run.status, 0, "{run}");
    assert!(run.stderr.contains("restoring memory"), "no progress was shown: {run}");
    guest.play(&[Restore("one"), Restore("one"), Verify]);

    // Stopped, forced and deleted in the midst of it.
    let restore = || assert_eq!(rig.run_json(&["snapshot", "restore", "busy@one"])["mode"], "lazy");
    restore();
    guest.stop();
    restore();
    let view = rig.run_json(&["vm", "stop", "busy", "--force"]);
    assert_eq!((&view["state"], &view["restore"]), (&"stopped".into(), &Value::Null), "{view}");
    restore();
    rig.run_ok(&["vm", "delete", "busy", "--force", "-y"]);
    assert_eq!(rig.qemu_pids(), Vec::<u32>::new());
}

/// The processes that serve a VM's memory: the supervisor, then its worker.
fn servers(rig: &Rig, vm: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(rig.vm_folder(vm).join("seat/lazy.lock")).unwrap_or_default();
    let note: Value = serde_json::from_str(&text).unwrap_or_default();
    let pids = note["processes"].as_array().into_iter().flatten();
    pids.filter_map(|process| process["pid"].as_u64()?.try_into().ok()).collect()
}

/// Whether a command has the VM in its hands. Looks for so short a time that no command is turned away by it.
pub(crate) fn is_held(rig: &Rig, vm: &str) -> bool {
    let lock = std::fs::File::open(rig.vm_folder(vm).join("lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

pub(crate) fn signal_servers(rig: &Rig, vm: &str, signal: &str) {
    for pid in servers(rig, vm) {
        let _ = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
    }
}

/// Whoever is killed, and how the VM comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// Its supervisor starts another one, and nobody has to type anything.
    Worker,
    /// The worker goes on alone.
    Supervisor,
    /// The next command brings them back.
    Both,
}

/// Guards the guest against the death of those who give it its memory, at moments drawn at random: it loses nothing.
/// The seed is printed, and taken from `VMREWIND_TEST_KILL_SEED`; so is the number of restores, from
/// `VMREWIND_TEST_KILLS`.
#[test]
fn a_killed_page_server_costs_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut seed = number("VMREWIND_TEST_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("VMREWIND_TEST_KILL_SEED={seed}");
    let mut random = move |below: u64| {
        // xorshift64*; only which moments are tried depends on it.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % below
    };
    let rig = rig();
    let guest = rig.guest(large("killed", 512).with(|options| options.mix = Mix::Random));
    guest.play(&[Snapshot("one")]);
    if !restores_lazily(&guest, "one") {
        return;
    }
    let victims = [Victim::Worker, Victim::Supervisor, Victim::Both];
    let mut recovered = 0;
    for round in 0..number("VMREWIND_TEST_KILLS").unwrap_or(6) {
        let victim = victims[usize::try_from(round % 3).unwrap()];
        // Before the guest runs, or while its memory comes.
        let delay = Duration::from_millis(random(if round / 3 % 2 == 0 { 160 } else { 700 }));
        eprintln!("round {round}: {victim:?} after {delay:?}");
        let restore = rig.spawn(&["snapshot", "restore", "killed@one", "--discard-current", "--json"]);
        // From the moment on when there is somebody to be killed.
        let begun = Instant::now();
        while servers(&rig, "killed").len() < 2 && begun.elapsed() < Duration::from_secs(30) {}
        std::thread::sleep(delay);
        let pids = servers(&rig, "killed");
        for (at, pid) in pids.iter().enumerate() {
            if victim == Victim::Both || at == usize::from(victim == Victim::Worker) {
                kill_if_there(&rig, *pid);
            }
        }
        let run = restore.wait(Duration::from_secs(120));
        assert_eq!(run.status, 0, "{run}");
        assert_eq!(run.json()["mode"], "lazy", "{run}");
        if victim == Victim::Both {
            recovered += u64::from(rig.run_ok(&["vm", "show", "killed"]).stderr.contains("started again"));
            // Again, where the first look was at processes that were just dying.
            assert_eq!(guest.state(), "running");
        }
        guest.runs();
        guest.verify_ok();
        assert_eq!(guest.state(), "running");
        guest.verify_ok();
    }
    eprintln!("servers were brought back by a command {recovered} times");
    guest.play(&[Damage, Restore("one"), Stop]);
}

/// Kills a process that is one of this rig's page servers, if it still is.
fn kill_if_there(rig: &Rig, pid: u32) {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    if text.contains("__background pages") && text.contains(&rig.root().display().to_string()) {
        kill(pid);
    }
}

/// Guards against wrong or missing memory: where a page can't be read the VM is stopped, it is said why, and other
/// snapshots and the VM itself are as good as before.
#[test]
fn damage_found_on_the_way_stops_the_vm() {
    let rig = rig();
    let guest = rig.guest(large("hurt", 512).with(|options| options.mix = Mix::Random));
    guest.play(&[Snapshot("one")]);
    flip_bytes(&rig);
    let run = rig.run(&["--json", "snapshot", "restore", "hurt@one"]);
    // Found before the guest could run, or later.
    let error = if run.status == 0 {
        let deadline = Instant::now() + Duration::from_secs(60);
        while guest.state_now() != "stopped" {
            assert!(Instant::now() < deadline, "it runs on: {}", guest.show());
            std::thread::sleep(Duration::from_millis(20));
        }
        let show = guest.show();
        assert_eq!(
            (&show["failure"]["snapshot"], &show["failure"]["kind"]),
            (&"one".into(), &"damaged".into())
        );
        let text = rig.run_ok(&["vm", "show", "hurt"]).stdout;
        assert!(text.contains("could not be read"), "{text}");
        rig.run_fails(&["snapshot", "create", "hurt", "three"], 7)
    } else {
        eprintln!("found before the guest ran");
        if guest.state_now() == "running" {
            // Even before the old guest was given up, in what is read first: nothing has changed.
            guest.play(&[Verify, Stop]);
        }
        run.error()
    };
    // What is damaged, and where: a hash that does not fit, or data that can't even be expanded.
    assert_says(&error, "damaged in pack");
    assert_eq!(rig.qemu_pids(), Vec::<u32>::new());
    rig.run_fails(&["snapshot", "verify", "hurt@one"], 7);
    // The disks are those of the snapshot, as good as after a power cut.
    guest.play(&[Start, Stop]);
    assert_eq!(guest.show()["failure"], Value::Null);
    flip_bytes(&rig);
    guest.play(&[Restore("one"), Verify, Stop]);
}

/// Flips bits all over the data of the store; done twice, all is as before.
fn flip_bytes(rig: &Rig) {
    let store = rig.root().join("store");
    let large = |(path, bytes): &(PathBuf, u64)| path.starts_with(&store) && *bytes > 8 << 20;
    let files: Vec<_> = rig.files().into_iter().filter(large).collect();
    assert!(!files.is_empty(), "where is the data? {:?}", rig.files());
    files.iter().for_each(|(path, _)| flip_bytes_of(path));
}

fn flip_bytes_of(path: &Path) {
    use std::os::unix::fs::FileExt;
    let _ = std::process::Command::new("chmod").arg("u+w").arg(path).status();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    for part in 1..64 {
        let at = len / 2 / 64 * part + len / 3;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
}

/// Guards against servers that outlive their QEMU, and against a VM that looks as if it were still being restored.
#[test]
fn a_killed_qemu_ends_the_restore() {
    let rig = rig();
    let guest = rig.guest(large("gone", 512).with(|options| options.mix = Mix::Random));
    guest.play(&[Snapshot("one")]);
    if !restores_lazily(&guest, "one") {
        return;
    }
    assert_eq!(rig.run_json(&["snapshot", "restore", "gone@one"])["mode"], "lazy");
    for pid in rig.qemu_pids() {
        kill(pid);
    }
    assert_eq!(guest.state(), "stopped");
    let deadline = Instant::now() + Duration::from_secs(30);
    while rig.vm_folder("gone").join("seat/lazy.json").exists() {
        assert!(Instant::now() < deadline, "the page server goes on without its QEMU");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(guest.show()["failure"], Value::Null);
    guest.play(&[Restore("one"), Stop, Start, Verify, Stop]);
}
