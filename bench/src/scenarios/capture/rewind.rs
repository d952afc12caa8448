//! The guest under vmrewind, and vmrewind's turn: `snapshot create`, as a user types it.

use std::path::Path;

use serde_json::Value;
use vmrewind_testkit::guest::{GuestOptions, command_line};

use super::guest::Guest;
use super::sample::{Sample, milliseconds, our_way};
use crate::outcome::{Outcome, context};
use crate::program::Program;

const VM: &str = "bench";

/// A guest that vmrewind runs; it is stopped when this is dropped.
pub(crate) struct RewindGuest {
    program: Program,
    pub(crate) guest: Guest,
}

impl RewindGuest {
    /// Creates and starts a VM in a root below `folder`.
    pub(crate) fn boot(options: &GuestOptions, program: &Path, folder: &Path) -> Outcome<Self> {
        let program = Program::new(program, folder.join("root"));
        let line = command_line(options)?;
        program.run(["vm", "create", VM, "--"].into_iter().chain(line.iter().map(String::as_str)))?;
        let guest = start(&program).inspect_err(|_| stop(&program))?;
        Ok(Self { program, guest })
    }

    /// Takes a snapshot.
    pub(crate) fn capture(&self, round: u32) -> Outcome<Sample> {
        let name = format!("round-{round}");
        let ((view, done), seen) = self.guest.observe(|begun| {
            let view = self.program.run(["snapshot", "create", VM, &name])?;
            Ok((view, begun.elapsed()))
        })?;
        let method = view["method"].as_str().ok_or("`snapshot create --json` names no method")?;
        Ok(Sample {
            way: our_way(method),
            round,
            seen,
            done_ms: milliseconds(done),
            // The command returns when all is durable: its time includes the program's own start and its syncs.
            on_disk_ms: milliseconds(done),
            bytes: view["memory"]["stored_bytes"].as_u64().unwrap_or(0),
            reported_pause_ms: view["pause_ms"].as_f64(),
        })
    }

    /// Stops the VM and deletes it, so that its files make room.
    pub(crate) fn end(self) -> Outcome {
        self.program.run(["vm", "stop", VM, "--force"])?;
        self.program.run(["vm", "delete", VM])?;
        Ok(())
    }
}

impl Drop for RewindGuest {
    fn drop(&mut self) {
        stop(&self.program);
    }
}

fn start(program: &Program) -> Outcome<Guest> {
    program.run(["vm", "start", VM])?;
    let shown = program.run(["vm", "show", VM])?;
    let path = |key: &str| {
        shown.get(key).and_then(Value::as_str).ok_or_else(|| format!("`vm show --json` has no '{key}'"))
    };
    Guest::watch(&Path::new(path("run")?).join("console.sock"), Path::new(path("qmp")?))
        .map_err(context(|| "the VM does not boot".into()))
}

/// After a good end there is no such VM, and of a failed one nothing more can be done.
fn stop(program: &Program) {
    let _ = program.run(["vm", "stop", VM, "--force"]);
}
