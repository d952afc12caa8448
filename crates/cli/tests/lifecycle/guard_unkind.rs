//! `vmrewind guard` with users and commands that get in its way.

use std::time::Duration;

use vmrewind_testkit::guest::DiskKind;
use vmrewind_testkit::rig::Action::{Stop, Verify, Write};
use vmrewind_testkit::rig::{Guest, GuestSpec, Rig, Run};

use crate::{each, rig};

const SOON: Duration = Duration::from_secs(120);

fn vm(rig: &Rig) -> Guest<'_> {
    rig.guest(GuestSpec::new("web").disk("disk.qcow2", "qcow2", DiskKind::Virtio))
}

/// Runs a guard over a script in which `vmrewind` is the program under test.
#[track_caller]
fn guarded(rig: &Rig, options: &[&str], script: &str) -> Run {
    let script =
        format!("vmrewind() {{ \"{}\" \"$@\" >/dev/null; }}; {script}", env!("CARGO_BIN_EXE_vmrewind"));
    rig.run(&[&["guard", "web"], options, &["--", "/bin/sh", "-c", &script]].concat())
}

/// Guards Ctrl-C where no command runs: before it nothing is left and nothing is run, on the way back that is gone to its end.
#[test]
fn interrupted_before_and_after_the_command() {
    let rig = rig();
    let guest = vm(&rig);
    let stopped = rig.stop_at("layers-made", &["guard", "web", "--", "touch", "ran"]);
    stopped.interrupt();
    let run = stopped.go_on(SOON);
    assert_eq!(run.status, 130, "{run}");
    assert!(!rig.path("ran").exists(), "the command was run");
    assert_eq!(rig.run_json(&["snapshot", "list", "web", "--all"]), serde_json::json!([]));
    guest.play(&[Verify, Write("note", "mine")]);

    let stopped = rig.stop_at("old-ended", &["guard", "web", "--", "/bin/sh", "-c", "exit 5"]);
    stopped.interrupt();
    let run = stopped.go_on(SOON);
    assert_eq!(run.status, 5, "what failed was the command: {run}");
    assert!(run.stderr.contains("web: back at 'guard-1'"), "{run}");
    guest.play(&[Verify, Stop]);
}

/// Guards commands that do to the VM what a guard does not expect: what is said is so, and the way back is gone where there is one.
#[test]
fn a_command_that_stops_and_deletes() {
    let rig = rig();
    let guest = vm(&rig);
    // Stopped, and without its newest disk content: it runs again.
    guest.play(&[Write("note", "before")]);
    let run = guarded(&rig, &["--name", "s"], "vmrewind vm stop web --force; exit 1");
    assert_eq!(run.status, 1, "{run}");
    assert_eq!(guest.state(), "running");
    guest.play(&[Verify]);

    // A success that leaves no snapshot of that name.
    for (name, options) in [("a", &[][..]), ("b", &["--drop"])] {
        let script = format!("vmrewind snapshot rename \"$VMREWIND_SNAPSHOT\" {name}");
        let run = guarded(&rig, options, &script);
        assert_eq!(run.status, 0, "{run}");
        assert!(run.stderr.contains("was deleted or renamed meanwhile"), "{run}");
    }
    guest.play(&[Write("other", "x")]);
    let list = rig.run_json(&["snapshot", "list", "web"]);
    assert_eq!(each(&list, "name"), ["s", "a", "b"]);

    // A failure that leaves none, and one that leaves no VM.
    for script in [
        "vmrewind snapshot rename \"$VMREWIND_SNAPSHOT\" c; exit 1",
        "vmrewind vm delete web --force -y; exit 1",
    ] {
        let run = guarded(&rig, &[], script);
        assert_eq!(run.status, 3, "{run}");
        assert!(run.stderr.contains("THE VM IS NOT BACK") && run.stderr.contains("meanwhile"), "{run}");
        assert!(!run.stderr.contains("is kept"), "{run}");
    }
    assert_eq!(rig.qemu_pids(), Vec::<u32>::new());
    assert_eq!(guarded(&rig, &[], "true").status, 4);
}
