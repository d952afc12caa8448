//! `vmrewind guard`: a command on the host over a real guest, and the way back.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_testkit::guest::{Agent, DiskKind};
use vmrewind_testkit::rig::Action::{Damage, Lacks, Reads, Stop, Verify, Write};
use vmrewind_testkit::rig::{Background, Guest, GuestSpec, Rig};

use crate::{assert_says, each, rig};

const SOON: Duration = Duration::from_secs(120);
/// A command that says when it runs, and ends with status 3 when it is told to.
const WAITS: &str = "echo $$ > started; while [ ! -e go ]; do sleep 0.02; done; exit 3";

fn vm(rig: &Rig) -> Guest<'_> {
    rig.guest(GuestSpec::new("web").disk("disk.qcow2", "qcow2", DiskKind::Virtio))
}

#[track_caller]
fn appears(path: &Path) {
    let deadline = Instant::now() + SOON;
    while fs::read(path).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "{} does not appear", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Begins a guard over a command that waits, and does damage to the guest meanwhile.
#[track_caller]
fn begin_and_damage(rig: &Rig, guest: &Guest<'_>, options: &[&str]) -> Background {
    let _ = fs::remove_file(rig.path("started"));
    let _ = fs::remove_file(rig.path("go"));
    let guard = rig.spawn(&[&["guard", "web"], options, &["--", "/bin/sh", "-c", WAITS]].concat());
    appears(&rig.path("started"));
    guest.play(&[Write("note", "made under guard"), Damage]);
    guard
}

fn names(rig: &Rig) -> Vec<String> {
    let list = rig.run_json(&["snapshot", "list", "web"]);
    each(&list, "name").into_iter().map(String::from).collect()
}

fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

/// Guards the command that succeeds: it knows the VM, its words and status are its own, the snapshot is kept or dropped.
#[test]
fn a_command_that_succeeds_leaves_the_vm_alone() {
    let rig = rig();
    let guest =
        rig.guest(GuestSpec::new("web").disk("disk.qcow2", "qcow2", DiskKind::Virtio).with(|options| {
            options.agent = Agent::ChannelOnly;
        }));
    let show = "env | grep ^VMREWIND_ | sort; echo to stderr >&2; test -S \"$VMREWIND_QMP\"";
    let run = rig.run(&["guard", "web", "--", "/bin/sh", "-c", show]);
    assert_eq!(run.status, 0, "{run}");
    assert_eq!(run.stderr, "to stderr\nguard: the command succeeded; web@guard-1 is kept\n");
    let line = |name: &str| run.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    assert_eq!((line("VMREWIND_VM"), line("VMREWIND_SNAPSHOT")), (Some("web"), Some("web@guard-1")), "{run}");
    let folder = rig.vm_folder("web").join("run");
    let in_folder = |name: &str| folder.join(name).to_str().map(String::from);
    assert_eq!(line("VMREWIND_ROOT"), rig.root().to_str());
    assert_eq!(line("VMREWIND_RUN"), folder.to_str());
    assert_eq!(line("VMREWIND_CONSOLE"), in_folder("console.sock").as_deref());
    assert_eq!(line("VMREWIND_AGENT"), in_folder("agent.sock").as_deref());
    let view = rig.run_json(&["snapshot", "show", "web@guard-1"]);
    assert_eq!(view["grade"], "live", "{view}");
    assert!(view["message"].as_str().unwrap().starts_with("before /bin/sh -c "), "{view}");

    // The standard output of the command must not spoil the document.
    let run = rig.run(&["--json", "guard", "web", "--drop", "--check", "echo checked", "--", "echo", "mine"]);
    let view = run.json();
    assert_eq!((run.status, &view["outcome"], &view["why"]), (0, &"dropped".into(), &Value::Null), "{run}");
    assert_eq!((&view["command"]["status"], &view["check"]["status"]), (&0.into(), &0.into()), "{view}");
    assert!(run.stderr.contains("mine\n") && run.stderr.contains("checked\n"), "{run}");
    assert_eq!(names(&rig), ["guard-1"]);
    guest.play(&[Verify, Write("note", "still writing"), Reads("note", "still writing")]);
    guest.check_layers();

    // What can't be begun leaves nothing.
    let error = rig.run_fails(&["guard", "web", "--name", "guard-1", "--", "touch", "ran"], 5);
    assert_says(&error, "guard-1");
    assert!(!rig.path("ran").exists(), "the command was run without its snapshot");
    rig.run_fails(&["guard", "nobody", "--", "true"], 4);
    for (program, status) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let run = rig.run(&["guard", "web", "--", program]);
        assert_eq!(run.status, status, "{run}");
        assert!(run.stderr.contains("can't be run"), "{run}");
    }
    assert_eq!(names(&rig), ["guard-1"]);
    guest.play(&[Verify, Stop]);
}

/// Guards the way back from each kind of failure: the guest is as it was, and the status tells what happened.
#[test]
fn a_command_that_fails_is_as_if_it_had_never_run() {
    let rig = rig();
    let guest = vm(&rig);
    let guard = begin_and_damage(&rig, &guest, &["--json"]);
    fs::write(rig.path("go"), "").unwrap();
    let run = guard.wait(SOON);
    let view = run.json();
    assert_eq!(
        (run.status, &view["exit_status"], &view["why"]),
        (3, &3.into(), &"command-failed".into()),
        "{run}"
    );
    assert_eq!(
        (&view["outcome"], &view["restore"]["snapshot"]),
        (&"restored".into(), &"guard-1".into()),
        "{view}"
    );
    assert_eq!(view["restore"]["undo"], "web@undo-1", "{view}");
    guest.play(&[Verify, Lacks("note")]);

    // Ctrl-C, twice: the way back is gone to its end.
    let guard = begin_and_damage(&rig, &guest, &["--discard-current", "--name", "mine"]);
    let command = fs::read_to_string(rig.path("started")).unwrap();
    guard.interrupt();
    guard.interrupt();
    let run = guard.wait(SOON);
    assert_eq!(run.status, 130, "{run}");
    assert!(run.stderr.contains("guard: interrupted; web: back at 'mine'"), "{run}");
    assert!(!run.stderr.contains("undo"), "{run}");
    assert!(!is_alive(&command), "the command goes on");
    guest.play(&[Verify, Lacks("note")]);

    let guard = begin_and_damage(&rig, &guest, &["--check", "echo $VMREWIND_STATUS > status; exit 9"]);
    fs::write(rig.path("go"), "").unwrap();
    assert_eq!(guard.wait(SOON).status, 3);
    assert!(!rig.path("status").exists(), "there is nothing to check of a command that failed");
    let check = "echo $VMREWIND_STATUS > status; exit 9";
    let run = rig.run(&["guard", "web", "--check", check, "--", "true"]);
    assert_eq!((run.status, fs::read_to_string(rig.path("status")).unwrap().trim()), (9, "0"), "{run}");
    assert!(run.stderr.contains("the check ended with status 9; web: back at"), "{run}");
    let run = rig.run(&["guard", "web", "--", "/bin/sh", "-c", "kill -9 $$"]);
    assert_eq!(run.status, 137, "{run}");
    guest.play(&[Verify, Lacks("note"), Stop]);
}

/// Guards the bound in time, also over a command that does not want to end, and over what it has started.
#[test]
fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
    let rig = rig();
    let guest = vm(&rig);
    let stubborn = "trap '' TERM; sleep 1000 & echo $! > child; wait; while :; do sleep 1; done";
    let run = rig.run(&["--json", "guard", "web", "--timeout", "5s", "--", "/bin/sh", "-c", stubborn]);
    let view = run.json();
    assert_eq!(
        (run.status, &view["why"], &view["outcome"]),
        (124, &"timed-out".into(), &"restored".into()),
        "{run}"
    );
    assert!(!is_alive(&fs::read_to_string(rig.path("child")).unwrap()), "what it started goes on");
    guest.play(&[Verify]);
    let run = rig.run(&["guard", "web", "--timeout", "5s", "--check", "sleep 1000", "--", "true"]);
    assert_eq!(run.status, 124, "{run}");
    assert!(run.stderr.contains("the check took too long"), "{run}");
    guest.play(&[Verify, Stop]);

    // A VM that is off has its disks to lose.
    let script = "vmrewind() { \"$EXE\" \"$@\"; }; vmrewind vm start web >/dev/null && exit 5";
    let mut command = rig.command(&["guard", "web", "--", "/bin/sh", "-c", script]);
    let output = command.env("EXE", env!("CARGO_BIN_EXE_vmrewind")).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(guest.state(), "stopped");
    guest.check_disks();
}

/// Guards what is left where there is no way back, or no guard: the snapshot, under a name that was said.
#[test]
fn where_the_vm_is_not_back_it_is_said_loudly() {
    let rig = rig();
    let guest = vm(&rig);
    let script = "\"$EXE\" snapshot rename \"$VMREWIND_SNAPSHOT\" other >/dev/null; exit 1";
    let mut command = rig.command(&["guard", "web", "--", "/bin/sh", "-c", script]);
    let output = command.env("EXE", env!("CARGO_BIN_EXE_vmrewind")).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("THE VM IS NOT BACK") && words.contains("web@guard-1"), "{words}");
    guest.play(&[Verify]);

    let guard = begin_and_damage(&rig, &guest, &["--name", "left"]);
    let command = fs::read_to_string(rig.path("started")).unwrap();
    vmrewind_testkit::rig::kill(guard.pid());
    while is_alive(&guard.pid().to_string()) {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(is_alive(&command), "a killed guard ends nothing");
    // The command has the guard's outputs open.
    fs::write(rig.path("go"), "").unwrap();
    assert_eq!(guard.wait(SOON).status, -9);
    assert_eq!(names(&rig), ["other", "left"]);
    rig.run_json(&["snapshot", "restore", "web@left"]);
    guest.play(&[Verify, Lacks("note"), Stop]);
}
