//! One build's VM, and its turns.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_testkit::console::{Console, Mark};
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, GuestOptions};

use super::sample::{Build, Sample, What};
use crate::cache::{sync, touch_memory, warm};
use crate::outcome::Outcome;
use crate::vm::{ANSWER, Vm, filled_guest};

/// The snapshot that is brought back and cloned.
const FIRST: &str = "first";
const CLONE: &str = "copy";
/// Percent of the guest's pages that change before a capture.
const CHURN_PERCENT: u32 = 5;
const POLL: Duration = Duration::from_millis(50);

/// A build and its VM, which rests between turns.
pub(super) struct Contestant {
    build: Build,
    memory_bytes: u64,
    vm: Vm,
}

impl Contestant {
    /// Boots a guest, takes the first snapshot, and brings it back once, so that its working set is known.
    pub(super) fn make(build: Build, memory_mib: u32, program: &Path, folder: &Path) -> Outcome<Self> {
        let folder = folder.join(if build == Build::Before { "b" } else { "t" });
        std::fs::create_dir(&folder)?;
        let disk = folder.join("disk.qcow2");
        disk::ext4_qcow2(&disk, 256 << 20)?;
        let filled = filled_guest(memory_mib);
        let disks = vec![DiskArg::new(disk, "qcow2")];
        let guest = GuestOptions { dirty_mib: 16, dirty_hz: 1000, tick_ms: 5, disks, ..filled };
        let vm = Vm::boot("builds", &guest, program, &folder)?;
        vm.program.run(["snapshot", "create", &vm.name, FIRST])?;
        let made = Self { build, memory_bytes: u64::from(memory_mib) << 20, vm };
        made.restore(&[])?;
        made.vm.rest()?;
        Ok(made)
    }

    /// Does everything once. The guest runs only meanwhile.
    pub(super) fn turn(&self, round: u32) -> Outcome<Vec<Sample>> {
        self.vm.go_on()?;
        self.vm.ask(&format!("churn {CHURN_PERCENT}"), "CHURNED ")?;
        let mut samples = Vec::new();
        let mut add = |what, ms, view: &Value| {
            samples.push(Sample { build: self.build, what, round, ms, steps: steps_of(view) });
        };
        sync(self.vm.program.root())?;
        let begun = Instant::now();
        let captured = self.vm.program.run(["snapshot", "create", &self.vm.name, &format!("r{round}")])?;
        add(What::Capture, milliseconds(begun.elapsed()), &captured);
        add(What::Pause, captured["pause_ms"].as_f64().unwrap_or(f64::NAN), &Value::Null);
        for (what, options) in [
            (What::RestoreOfRunning, &[][..]),
            (What::RestoreOfStopped, &[][..]),
            (What::RestoreEagerly, &["--eager"][..]),
        ] {
            if what != What::RestoreOfRunning {
                self.vm.program.run(["vm", "stop", &self.vm.name, "--force"])?;
            }
            let (ms, view) = self.restore(options)?;
            add(what, ms, &view);
        }
        self.vm.check()?;
        self.vm.rest()?;
        let (ms, view) = self.clone_once()?;
        add(What::Clone, ms, &view);
        Ok(samples)
    }

    /// Brings the first snapshot back, from the command to the guest's tick, and waits until its memory is whole.
    fn restore(&self, options: &[&str]) -> Outcome<(f64, Value)> {
        self.prepare()?;
        let address = self.vm.address(FIRST);
        let connections = self.vm.console.connections();
        let begun = Instant::now();
        let words = ["snapshot", "restore", &address, "--discard-current"];
        let view = self.vm.program.run(words.into_iter().chain(options.iter().copied()))?;
        let mark = self.vm.console.wait_connected(connections, ANSWER)?;
        let ms = first_tick(&self.vm.console, mark, begun)?;
        let deadline = Instant::now() + ANSWER;
        while self.vm.program.run(["vm", "show", &self.vm.name])?["state"] == "restoring" {
            if Instant::now() > deadline {
                return Err("the memory does not come to its end".into());
            }
            std::thread::sleep(POLL);
        }
        Ok((ms, view))
    }

    /// Starts a clone, from the command to its tick, and deletes it.
    fn clone_once(&self) -> Outcome<(f64, Value)> {
        self.prepare()?;
        let program = &self.vm.program;
        let console =
            Console::attach(&program.root().join("vms").join(CLONE).join("run").join("console.sock"));
        let begun = Instant::now();
        let view = program.run(["vm", "clone", &self.vm.address(FIRST), CLONE, "--start"])?;
        let ms = first_tick(&console, Mark::START, begun)?;
        drop(console);
        program.run(["vm", "delete", CLONE, "--force"])?;
        Ok((ms, view))
    }

    /// Nobody pays for another's writes, for a file that was not read for long, or for getting memory from the host.
    fn prepare(&self) -> Outcome {
        sync(self.vm.program.root())?;
        warm(self.vm.program.root())?;
        touch_memory(self.memory_bytes)
    }

    /// Ends it.
    pub(super) fn end(self) -> Outcome {
        self.vm.delete()
    }
}

/// Waits for the first tick after `mark`, and says how long after `begun` it came.
fn first_tick(console: &Console, mark: Mark, begun: Instant) -> Outcome<f64> {
    let (at, _) = console.first_tick(mark, ANSWER)?;
    Ok(milliseconds(at.saturating_duration_since(begun)))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The time line of a command's document; empty where the build has none.
fn steps_of(view: &Value) -> Vec<(String, f64)> {
    let steps = view["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let step = |step: &Value| Some((step["name"].as_str()?.to_owned(), step["ms"].as_f64()?));
    steps.iter().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards builds without time lines, which are measured all the same.
    #[test]
    fn a_document_without_steps_has_none() {
        let view = serde_json::json!({ "steps": [{ "name": "a", "ms": 1.5 }, { "name": "b" }] });
        assert_eq!(steps_of(&view), [("a".to_owned(), 1.5)]);
        assert!(steps_of(&Value::Null).is_empty());
    }
}
