//! A restore of a VM that runs: the new QEMU starts beside the old one, and takes over what only one of them can have. The
//! guests have no system: an idle machine is enough.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use vmrewind_testkit::disk::blank_qcow2;
use vmrewind_testkit::rig::Rig;

use crate::{assert_says, rig};

/// A VM `light` that runs, with more options, and a snapshot `one` of it.
fn light(rig: &Rig, options: &[&str]) {
    let disk = rig.path("disk.qcow2");
    let disk = disk.to_str().unwrap();
    blank_qcow2(Path::new(disk), 16 << 20).unwrap();
    let drive = format!("file={disk},format=qcow2,if=virtio");
    let line =
        ["vm", "create", "light", "--", "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "64"];
    let plain = ["-nodefaults", "-display", "none", "-drive", &drive];
    rig.run_ok(&[&line[..], &plain, options].concat());
    rig.run_ok(&["vm", "start", "light"]);
    rig.run_ok(&["snapshot", "create", "light", "one", "--require", "live"]);
}

fn show(rig: &Rig) -> Value {
    rig.run_json(&["vm", "show", "light"])
}

/// Nothing was done to the VM: the same process runs, reachable as before.
#[track_caller]
fn goes_on(rig: &Rig, before: &Value) {
    let after = show(rig);
    assert_eq!(after["pid"], before["pid"], "{after}");
    // The memory of a lazy restore can be on its way still.
    assert!(after["state"] == "running" || after["state"] == "restoring", "{after}");
    assert_eq!(after["disks"], before["disks"]);
    UnixStream::connect(after["qmp"].as_str().unwrap()).unwrap();
    assert_eq!(rig.qemu_pids().len(), 1, "another QEMU is left");
    let seats = fs::read_dir(rig.vm_folder("light").join("seats")).unwrap().count();
    assert_eq!(seats, 1, "its seat is left");
}

/// Guards a running guest against a snapshot whose hardware the host can't give any more: a medium, a folder, a program.
#[test]
fn a_restore_that_does_not_come_up_costs_nothing() {
    let rig = rig();
    let iso = rig.path("a.iso");
    fs::write(&iso, vec![0; 1 << 20]).unwrap();
    light(&rig, &["-drive", &format!("file={},media=cdrom,readonly=on,if=ide", iso.display())]);
    let before = show(&rig);
    fs::rename(&iso, rig.path("elsewhere")).unwrap();
    for options in [&[][..], &["--eager"], &["--paused", "--discard-current"]] {
        let error = rig.run_fails(&[&["snapshot", "restore", "light@one"], options].concat(), 1);
        assert_says(&error, "VM 'light' goes on as it was");
        assert_says(&error, "a.iso");
        goes_on(&rig, &before);
    }
    fs::rename(rig.path("elsewhere"), &iso).unwrap();
    let view = rig.run_json(&["snapshot", "restore", "light@one"]);
    assert_eq!((&view["mode"], &view["state"]), (&"lazy".into(), &"running".into()), "{view}");
    assert_ne!(show(&rig)["pid"], before["pid"]);
}

/// Guards whoever is connected to a VM, or finds it by a port or a path, across a restore.
#[test]
fn what_only_one_can_have_is_handed_over() {
    let rig = rig();
    let port = free_port();
    let (qmp, pid) = (rig.path("my.sock"), rig.path("my.pid"));
    let (vnc, log) = (rig.path("vnc.sock"), rig.path("serial.log"));
    light(
        &rig,
        &[
            "-netdev",
            &format!("user,id=n0,hostfwd=tcp:127.0.0.1:{{port:{port}}}-:22"),
            "-device",
            "virtio-net-pci,netdev=n0",
            "-qmp",
            &format!("unix:{},server=on,wait=off", qmp.display()),
            "-pidfile",
            pid.to_str().unwrap(),
            "-vnc",
            &format!("unix:{}", vnc.display()),
            "-serial",
            &format!("file:{}", log.display()),
        ],
    );
    let reaches = |pid: u64| {
        assert_eq!(peer(&qmp), pid, "the QMP socket");
        assert_eq!(peer(&vnc), pid, "the display's socket");
        assert_eq!(fs::read_to_string(rig.path("my.pid")).unwrap().trim(), pid.to_string());
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(log.is_file());
    };
    let old = show(&rig)["pid"].as_u64().unwrap();
    reaches(old);
    for _ in 0..2 {
        let run = rig.run_ok(&["--json", "snapshot", "restore", "light@one"]);
        assert!(!run.stderr.contains("handed over") && !run.stderr.contains("ended before"), "{run}");
        let view = run.json();
        assert_eq!(view["ports"][port.to_string()], port, "{view}");
        let new = show(&rig)["pid"].as_u64().unwrap();
        assert_ne!(new, old);
        reaches(new);
    }
    for entry in fs::read_dir(rig.path(".")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains(".next-"), "{name} was for the time beside the other");
    }
}

/// Guards hardware that two QEMUs can't have at once: it comes back all the same, and the user is told.
#[test]
fn what_can_not_be_handed_over_ends_the_old_one_first() {
    let rig = rig();
    let port = free_port();
    let iso = rig.path("a.iso");
    fs::write(&iso, vec![0; 1 << 20]).unwrap();
    let medium = format!("file={},media=cdrom,readonly=on,if=ide", iso.display());
    light(&rig, &["-serial", &format!("tcp:127.0.0.1:{port},server=on,wait=off"), "-drive", &medium]);
    let old = show(&rig)["pid"].clone();
    let run = rig.run_ok(&["snapshot", "restore", "light@one"]);
    assert!(run.stderr.contains("a TCP port serves one program"), "{run}");
    assert_ne!(show(&rig)["pid"], old);
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let plan = rig.run_json(&["snapshot", "restore", "light@one", "--dry-run"]);
    assert_eq!((&plan["order"], &plan["dry_run"]), (&"end-then-start".into(), &true.into()), "{plan}");

    // Even then it is known before whether a QEMU starts at all.
    let before = show(&rig);
    let iso = rig.path("a.iso");
    fs::rename(&iso, rig.path("elsewhere")).unwrap();
    let error = rig.run_fails(&["snapshot", "restore", "light@one"], 1);
    assert_says(&error, "VM 'light' goes on as it was");
    goes_on(&rig, &before);
}

/// Guards many restores in a row: each seat that was left is gone, and the paths of the VM stay.
#[test]
fn paths_stay_through_many_restores() {
    let rig = rig();
    light(&rig, &[]);
    let run = show(&rig)["run"].clone();
    for number in 0..12 {
        rig.run_ok(&["snapshot", "restore", "light@one", "--discard-current"]);
        let shown = show(&rig);
        assert_eq!(shown["run"], run, "after {number}");
        let pid = shown["pid"].as_u64().unwrap();
        assert_eq!(peer(Path::new(shown["qmp"].as_str().unwrap())), pid, "after {number}");
    }
    assert_eq!(fs::read_dir(rig.vm_folder("light").join("seats")).unwrap().count(), 1);
    assert_eq!(rig.qemu_pids().len(), 1);
}

/// The process that listens on a socket.
fn peer(socket: &Path) -> u64 {
    let stream = UnixStream::connect(socket).unwrap();
    let credentials = rustix::net::sockopt::socket_peercred(&stream).unwrap();
    u64::try_from(credentials.pid.as_raw_nonzero().get()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
