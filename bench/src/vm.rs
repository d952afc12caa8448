//! A VM that runs the test guest under vmrewind, as scenarios drive it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use vmrewind_qemu::qmp::Client;
use vmrewind_qemu::qmp::commands::{Cont, Stop};
use vmrewind_qemu::qmp::session::ConnectionId;
use vmrewind_testkit::console::Console;
use vmrewind_testkit::guest::{GuestOptions, Mix, command_line};

use crate::outcome::{Outcome, context};
use crate::program::Program;

/// What the ids of requests begin with. Nobody else talks to these QEMUs, so no random number is needed.
pub(crate) const CONNECTION: ConnectionId = ConnectionId(0);

/// Filling gigabytes of memory takes an emulated processor its time.
pub(crate) const BOOT: Duration = Duration::from_secs(900);
/// For answers of guest and QEMU.
pub(crate) const ANSWER: Duration = Duration::from_secs(600);

/// A guest that has filled most of its memory, with the same content each time.
pub(crate) fn filled_guest(memory_mib: u32) -> GuestOptions {
    const FILLED_PERCENT: u32 = 65;
    GuestOptions {
        memory_mib,
        fill_mib: memory_mib / 100 * FILLED_PERCENT,
        mix: Mix::Mixed,
        seed: 1,
        ..GuestOptions::default()
    }
}

/// A VM; it is stopped when this is dropped.
pub(crate) struct Vm {
    /// The program, on the VM's root.
    pub(crate) program: Program,
    /// Its name.
    pub(crate) name: String,
    /// Its serial line, through restores.
    pub(crate) console: Console,
    qmp: PathBuf,
}

impl Vm {
    /// Makes and starts a VM in a root below `folder`; returns once its guest has filled its memory.
    pub(crate) fn boot(name: &str, options: &GuestOptions, program: &Path, folder: &Path) -> Outcome<Self> {
        let program = Program::new(program, folder.join("root"));
        let line = command_line(options)?;
        let made =
            program.run(["vm", "create", name, "--"].into_iter().chain(line.iter().map(String::as_str)))?;
        let run = made["run"].as_str().map(PathBuf::from).ok_or("`vm create --json` has no 'run'")?;
        let console = Console::attach(&run.join("console.sock"));
        let vm = Self { program, name: name.to_owned(), console, qmp: run.join("qmp.sock") };
        vm.program.run(["vm", "start", name])?;
        vm.console.wait_ready(BOOT).map_err(context(|| "the guest does not boot".into()))?;
        Ok(vm)
    }

    /// `VM@NAME`.
    pub(crate) fn address(&self, snapshot: &str) -> String {
        format!("{}@{snapshot}", self.name)
    }

    /// Asks the guest.
    pub(crate) fn ask(&self, command: &str, prefix: &str) -> Outcome<String> {
        Ok(self.console.ask(command, prefix, ANSWER)?)
    }

    /// Has the guest check itself.
    pub(crate) fn check(&self) -> Outcome {
        let verify = self.console.verify(ANSWER)?;
        if verify.ok { Ok(()) } else { Err(format!("the guest is damaged: {}", verify.line).into()) }
    }

    /// Stops the guest, so that it takes no processor time from another that is measured.
    pub(crate) fn rest(&self) -> Outcome {
        Client::connect(&self.qmp, CONNECTION, ANSWER)?.execute(&Stop, ANSWER)?;
        Ok(())
    }

    /// Lets the guest run again.
    pub(crate) fn go_on(&self) -> Outcome {
        Client::connect(&self.qmp, CONNECTION, ANSWER)?.execute(&Cont, ANSWER)?;
        self.console.wait_tick(self.console.mark(), ANSWER)?;
        Ok(())
    }

    /// The manifest of a snapshot, by its id.
    pub(crate) fn manifest(&self, id: &str) -> Outcome<Value> {
        let folder = self.program.root().join("vms").join(&self.name).join("snapshots");
        let path = folder.join(format!("{id}.json"));
        let bytes = std::fs::read(&path).map_err(context(|| format!("cannot read '{}'", path.display())))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Stops and deletes it, so that its files make room.
    pub(crate) fn delete(self) -> Outcome {
        self.program.run(["vm", "stop", &self.name, "--force"])?;
        self.program.run(["vm", "delete", &self.name])?;
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // After a good end there is no such VM, and of a failed one nothing more can be done.
        let _ = self.program.run(["vm", "stop", &self.name, "--force"]);
    }
}
