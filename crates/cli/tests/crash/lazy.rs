//! A lazy restore whose page server is killed at each of its steps, on real guests.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_testkit::guest::Mix;
use vmrewind_testkit::rig::{Guest, Rig, kill};

use super::{PATIENCE, check_root, rig, small};

/// The worker that serves the VM's memory, once it stands still.
fn stopped_worker(rig: &Rig) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(rig.newest_seat("vm").join("lazy.lock")).unwrap_or_default();
        let note: Value = serde_json::from_str(&text).unwrap_or_default();
        let pid = note["processes"][1]["pid"].as_u64().unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')) {
            return u32::try_from(pid).expect("a pid");
        }
        assert!(Instant::now() < deadline, "no worker stands still: {note}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// SIGKILL of the worker at any step: somebody else goes on, nobody has to type a command, and memory is right.
#[test]
fn the_worker_killed_at_every_step() {
    let rig = rig();
    let guest = rig.guest(small("vm").with(|options| options.mix = Mix::Random));
    guest.snapshot("base", &[]);
    if guest.restore("base", &[]).view["mode"] != "lazy" {
        eprintln!("left out, since this host restores eagerly only");
        return;
    }
    for step in ["pages-opened", "pages-guest-can-run", "pages-served"] {
        guest.state();
        let restore = ["snapshot", "restore", "vm@base", "--discard-current", "--json"];
        let mut command = rig.command(&restore);
        command.env("VMREWIND_TEST_STOP_AT", step).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = command.spawn().expect("the program starts");
        kill(stopped_worker(&rig));
        // The next worker stops at the same step.
        let_all_go(&rig, &guest, &mut run);
        let output = run.wait_with_output().expect("the program ends");
        assert!(output.status.success(), "at {step}: {}", String::from_utf8_lossy(&output.stderr));
        guest.runs();
        guest.verify_ok();
        assert_eq!(guest.state(), "running", "after {step}");
        check_root(&guest);
        assert!(!rig.vm_folder("vm").join("seat/lazy.json").exists());
    }
    guest.stop();
    guest.check_disks();
}

/// Lets workers go that stand still at a step, until the restore is over.
fn let_all_go(rig: &Rig, guest: &Guest<'_>, run: &mut Child) {
    let deadline = Instant::now() + PATIENCE;
    while rig.newest_seat("vm").join("lazy.json").exists() || matches!(run.try_wait(), Ok(None)) {
        let text = fs::read_to_string(rig.newest_seat("vm").join("lazy.lock")).unwrap_or_default();
        let note: Value = serde_json::from_str(&text).unwrap_or_default();
        let pid = note["processes"][1]["pid"].as_u64().unwrap_or_default();
        let _ = std::process::Command::new("kill").args(["-CONT", &pid.to_string()]).status();
        assert!(Instant::now() < deadline, "its memory does not come: {}", guest.show());
        std::thread::sleep(Duration::from_millis(5));
    }
}
