//! vmrewind's clones.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use vmrewind_testkit::console::Console;
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, GuestOptions};

use super::sample::{Sample, Way};
use super::{all_tick, settled_memory};
use crate::outcome::Outcome;
use crate::vm::Vm;

const SNAPSHOT: &str = "base";
/// The clone beside which others find the image that they share.
const RESTING: &str = "resting";

/// A VM with a snapshot to be cloned; it does not run.
pub(super) struct Parent {
    vm: Vm,
    /// The last tick before the snapshot was asked for: a clone goes on after it.
    tick: u64,
}

impl Parent {
    /// Boots a guest, takes a snapshot, and ends it.
    pub(super) fn make(guest: &GuestOptions, program: &Path, folder: &Path) -> Outcome<Self> {
        std::fs::create_dir(folder)?;
        let disk = folder.join("disk.qcow2");
        disk::ext4_qcow2(&disk, 64 << 20)?;
        let guest = GuestOptions { disks: vec![DiskArg::new(disk, "qcow2")], ..guest.clone() };
        let vm = Vm::boot("parent", &guest, program, folder)?;
        let tick = vm.console.last_tick().map_or(0, |tick| tick.tick);
        vm.program.run(["snapshot", "create", &vm.name, SNAPSHOT])?;
        vm.program.run(["vm", "stop", &vm.name, "--force"])?;
        Ok(Self { vm, tick })
    }

    /// Makes and starts clones, measures them, and deletes them.
    pub(super) fn clones(&self, count: u32, round: u32, beside_another: bool) -> Outcome<Sample> {
        let program = &self.vm.program;
        let address = self.vm.address(SNAPSHOT);
        if beside_another {
            program.run(["vm", "clone", &address, RESTING, "--start"])?;
            stop(&program.run(["vm", "show", RESTING])?)?;
        }
        let names: Vec<String> = (1..=count).map(|number| format!("c-{number}")).collect();
        let console = |name: &String| {
            Console::attach(&program.root().join("vms").join(name).join("run").join("console.sock"))
        };
        let consoles: Vec<Console> = names.iter().map(console).collect();
        let begun = Instant::now();
        program.run(["vm", "clone", &address, "c", "--count", &count.to_string(), "--start"])?;
        let (last, tick) = all_tick(&consoles)?;
        if tick <= self.tick {
            return Err("the clones boot in place of going on".into());
        }
        let pids = names.iter().map(|name| pid(&program.run(["vm", "show", name])?));
        let pids = pids.collect::<Outcome<Vec<_>>>()?;
        let pss_bytes = settled_memory(&consoles, &pids)?;
        let way = if beside_another { Way::Again } else { Way::First };
        let sample = Sample { way, round, all_ms: (last - begun).as_secs_f64() * 1e3, pss_bytes };
        drop(consoles);
        let resting = beside_another.then(|| RESTING.to_owned());
        for name in names.iter().chain(&resting) {
            program.run(["vm", "delete", name, "--force"])?;
        }
        Ok(sample)
    }

    /// Deletes the VM.
    pub(super) fn delete(self) -> Outcome {
        self.vm.program.run(["vm", "delete", &self.vm.name])?;
        Ok(())
    }
}

fn pid(shown: &Value) -> Outcome<u32> {
    let pid = shown["pid"].as_u64().ok_or("`vm show --json` has no 'pid'")?;
    Ok(u32::try_from(pid)?)
}

/// Stops the guest of a VM: one that rests takes no processor time.
fn stop(shown: &Value) -> Outcome {
    use vmrewind_qemu::qmp::Client;
    use vmrewind_qemu::qmp::commands::Stop;
    let qmp = shown["qmp"].as_str().ok_or("`vm show --json` has no 'qmp'")?;
    Client::connect(Path::new(qmp), crate::vm::CONNECTION, crate::vm::ANSWER)?
        .execute(&Stop, crate::vm::ANSWER)?;
    Ok(())
}
