//! `vmrewind guard` where no guest is needed: what it goes back to is the snapshot that it made, and what it runs.

use crate::sandbox::Sandbox;

/// Another snapshot that got the name meanwhile is neither restored nor dropped.
#[test]
fn another_snapshot_of_that_name_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let vmrewind = env!("CARGO_BIN_EXE_vmrewind");
    let guarded = |name: &str, ends: &str| {
        let rename = format!("{vmrewind} snapshot rename web@{name} was-{name}");
        // With the guard's own seed it would get the same id.
        let create = format!("VMREWIND_TEST_SEED={name} {vmrewind} snapshot create web {name} -m another");
        let script = format!("{{ {rename} && {create}; }} >&2 && {ends}");
        let run = sandbox.run(&["guard", "web", "--name", name, "--drop", "--", "sh", "-c", &script]);
        let shown = sandbox.json(&["snapshot", "show", &format!("web@{name}")]);
        assert_eq!(shown["message"], "another", "{run:?}");
        run
    };
    guarded("a", "exit 5").fails(3, &["THE VM IS NOT BACK", "meanwhile"]);
    let run = guarded("b", "exit 0");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("web@b was deleted or renamed meanwhile"), "{run:?}");
}

/// The command gets no signal blocked that was not so before.
#[test]
fn the_command_is_stopped_by_its_terminal_as_usual() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    let run = sandbox.run(&["guard", "web", "--", "grep", "SigBlk", "/proc/self/status"]);
    assert!(run.stdout.contains("SigBlk:\t0000000000000000\n"), "{run:?}");
}
