//! Guards what happens where standard output takes no more.

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
    for (arguments, status) in [
        (&["vm", "clone", "web@s", "copy", "--start", "--json"][..], 3),
        (&["guard", "web", "--json", "--", "sh", "-c", "exit 5"], 5),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = Run::of(&sandbox.command().args(arguments).stdout(writer).output().unwrap());
        assert_eq!(run.status, Some(status), "{arguments:?}: {run:?}");
    }
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
