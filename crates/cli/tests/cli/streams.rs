//! Guards what happens where standard output takes no more.

use std::ffi::OsStr;
use std::fs::File;

use crate::sandbox::{Run, Sandbox};

/// `vmrewind ... | head` is no failure, and no panic.
#[test]
fn a_closed_pipe() {
    let sandbox = Sandbox::new();
    for arguments in [&["vm", "list"][..], &["--help"], &["completions", "bash"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(&sandbox.command().args(arguments).stdout(writer).output().unwrap());
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// A reader that is gone does not make a success of what failed.
#[test]
fn a_closed_pipe_hides_no_failure() {
    let sandbox = Sandbox::new();
    let drive = format!("file={},if=virtio", sandbox.disk("web.qcow2"));
    sandbox.vm_with("web", &["-drive", &drive, "-device", "flux-capacitor"]);
    sandbox.ok(&["snapshot", "create", "web", "s"]);
    let status = |arguments: &[&str], path: &OsStr| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = sandbox.command();
        Run::of(&command.args(arguments).env("PATH", path).stdout(writer).output().unwrap()).status
    };
    let path = std::env::var_os("PATH").unwrap();
    assert_eq!(status(&["vm", "clone", "web@s", "copy", "--start", "--json"], &path), Some(3));
    assert_eq!(status(&["guard", "web", "--json", "--", "sh", "-c", "exit 5"], &path), Some(5));
    assert_eq!(status(&["doctor"], OsStr::new("/nowhere")), Some(1));
    sandbox.vm("damaged");
    std::fs::write(sandbox.root().join("vms/damaged/vm.json"), "{}").unwrap();
    assert_eq!(status(&["vm", "list"], &path), Some(7));
    assert_eq!(status(&["snapshot", "list"], &path), Some(7));
}

/// A result that is lost is said: the work itself was done.
#[test]
fn a_full_disk() {
    let sandbox = Sandbox::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let run = Run::of(&sandbox.command().args(["vm", "list"]).stdout(full).output().unwrap());
    run.fails(3, &["result could not be printed", "No space left"]);
}

/// Nothing but the result is on standard output, and no colour where nobody looks at it.
#[test]
fn no_colours_in_pipes() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let run = sandbox.run(&["vm", "list", "-vv"]);
    assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{run:?}");
    assert_eq!(run.stdout, sandbox.ok(&["vm", "list"]));
}
