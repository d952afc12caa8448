//! A command in the guest of a clone that was just started, by which it is made unique before it is let on the network.

use std::time::{Duration, Instant};

use crate::agent::{Agent, GuestExit};
use crate::engine::Operation;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::VmName;
use crate::ops::vm_start::StartReport;
use crate::record::vm::VmRecord;
use crate::view::clone::{InsideView, StartMode};
use crate::vm::machine::Use;
use crate::vm::spawn;

/// How long the agent of a guest that boots may take to be there.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);
/// And of one that goes on where it was: it was there then.
const WARM_PATIENCE: Duration = Duration::from_secs(30);
/// How long the command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);

impl Operation {
    /// Runs a command in the guest of a started clone, then plugs its links if that is asked for. Gives what the command
    /// gave, and what went wrong: there is no agent, or the command did not end well. The links stay unplugged then.
    pub(super) fn make_unique(
        &self,
        record: &VmRecord,
        report: &mut StartReport,
        command: &str,
        link_up: bool,
    ) -> (Option<InsideView>, Option<Error>) {
        let name = &record.name;
        let exit = match self.run_when_up(record, report.mode, command) {
            Ok(exit) => exit,
            Err(error) => return (None, Some(error)),
        };
        let view = InsideView::of(&exit);
        if !exit.is_success() {
            let error = Error::failed(format!("the command in the guest of '{name}' failed: {view}"));
            return (Some(view), Some(error));
        }
        let mut plugged = Ok(());
        if link_up && !report.links_down.is_empty() {
            plugged = self.plug(name, &report.links_down);
            if plugged.is_ok() {
                report.links_down.clear();
            }
        }
        (Some(view), plugged.err())
    }

    /// Waits for the guest's agent, and has it run the command with `/bin/sh`.
    fn run_when_up(&self, record: &VmRecord, mode: StartMode, command: &str) -> Result<GuestExit> {
        let name = &record.name;
        let folder = self.root.vm(name);
        let gone = || Error::failed(format!("the QEMU of VM '{name}' ended"));
        let machine = self.ctx.machines().find(&folder)?.ok_or_else(gone)?;
        let line = spawn::filled_in(name, &record.hardware, machine.run())?;
        let channel = line.guest_agent();
        let patience = if mode == StartMode::Warm { WARM_PATIENCE } else { BOOT_PATIENCE };
        let deadline = Instant::now() + patience;
        let doing = || format!("cannot run the command in the guest of '{name}'");
        let mut agent = loop {
            match Agent::find(&self.ctx, channel.as_ref(), &*machine) {
                Ok(agent) => break agent,
                Err(error) if channel.is_none() || Instant::now() >= deadline => {
                    return Err(error.while_doing(doing()));
                }
                Err(_) if !machine.is_alive() => return Err(gone()),
                Err(_) => {}
            }
            self.check_cancel("waiting for a guest agent")?;
            std::thread::sleep(ASK_EVERY);
        };
        // The name tells clones apart inside; it has no character that a shell would take for its own.
        let script = format!("VMREWIND_VM='{name}'; export VMREWIND_VM; {command}");
        agent.exec("/bin/sh", &["-c", &script], COMMAND_PATIENCE).map_err(|error| error.while_doing(doing()))
    }

    /// Plugs network links of a running VM.
    fn plug(&self, name: &VmName, links: &[String]) -> Result<()> {
        let held = self.hold_vm(name)?;
        let machine = self
            .ctx
            .machines()
            .find(&held.folder)?
            .ok_or_else(|| Error::new(ErrorKind::Failed, format!("VM '{name}' does not run")))?;
        let monitor = machine.channel(Use::Operation)?;
        links.iter().try_for_each(|link| monitor.set_link(link, true))
    }
}

impl InsideView {
    fn of(exit: &GuestExit) -> Self {
        Self {
            status: exit.status,
            signal: exit.signal,
            stdout: String::from_utf8_lossy(&exit.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&exit.stderr).into_owned(),
        }
    }
}

impl std::fmt::Display for InsideView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status, self.signal) {
            (Some(status), _) => write!(f, "exit status {status}")?,
            (None, Some(signal)) => write!(f, "ended by signal {signal}")?,
            (None, None) => f.write_str("ended without a status")?,
        }
        match self.stderr.lines().rfind(|line| !line.trim().is_empty()) {
            Some(last) => write!(f, ", {last}"),
            None => Ok(()),
        }
    }
}
