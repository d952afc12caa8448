//! Stops a VM: by its power button, or at once.

use std::time::{Duration, Instant};

use vmrewind_qemu::qmp::commands::RunState;

use crate::context::Cancel;
use crate::end_vm::end_vm;
use crate::engine::{HeldVm, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::VmName;
use crate::lazy;
use crate::monitor::is_running;
use crate::view::VmView;
use crate::vm::machine::{Machine, Use};
use crate::vm::process::Process;

/// How to stop.
#[derive(Debug, Clone, Copy)]
pub struct VmStop {
    /// At once, as by pulling the plug (QEMU still closes its images properly).
    pub force: bool,
    /// How long the guest may take.
    pub timeout: Duration,
}

/// How often the power button is pressed again: a guest that is still booting misses it.
const PRESS_EVERY: Duration = Duration::from_secs(5);

impl Operation {
    /// Stops a VM. One that does not run is fine.
    ///
    /// # Errors
    /// `Failed` where the guest does not power off in time; it runs on then.
    pub fn vm_stop(&self, name: &VmName, how: VmStop) -> Result<VmView> {
        if how.force {
            // Before anything else: this must work also where QEMU hangs and an operation can't be recovered from.
            let locked = self.lock(name)?;
            if let Some(machine) = self.ctx.machines().find(&locked.folder)? {
                end_vm(&*machine, &locked.folder)?;
            }
            self.ledger(&locked.folder).recover().map_err(|error| {
                error.while_doing(format!("VM '{name}' is stopped")).with_kind(ErrorKind::Partial)
            })?;
        } else {
            let held = self.hold_vm(name)?;
            if let Some(machine) = self.ctx.machines().find(&held.folder)? {
                power_off(&self.ctx.cancel, &held, &*machine, how.timeout)?;
            }
        }
        Ok(self.shown_after(name))
    }
}

fn power_off(cancel: &Cancel, held: &HeldVm, machine: &dyn Machine, timeout: Duration) -> Result<()> {
    let name = &held.record.name;
    let monitor = machine.channel(Use::Operation)?;
    let status = monitor.status()?;
    if status == RunState::Shutdown {
        return end_vm(machine, &held.folder);
    }
    if !is_running(&status) {
        return Err(Error::failed(format!("VM '{name}' is {status}: its guest can't power off"))
            .with_hint(Hint::RunOrForceStop { vm: name.to_string() }));
    }
    let deadline = Instant::now() + timeout;
    let mut next_press = Instant::now();
    let mut silent = None;
    while Instant::now() < deadline {
        cancel.check("waiting for the guest to power off")?;
        if Instant::now() >= next_press {
            next_press = Instant::now() + PRESS_EVERY;
            if let Err(error) = monitor.press_power_button()
                && !machine.wait_end(machine.patience().power_off)
            {
                return Err(error);
            }
        }
        if machine.wait_end(Duration::from_millis(50)) {
            Process::forget(&held.folder)?;
            return lazy::end(&held.folder);
        }
        match monitor.status() {
            Ok(RunState::Shutdown) => return end_vm(machine, &held.folder),
            status => silent = status.err(),
        }
    }
    let late =
        Error::failed(format!("the guest of VM '{name}' did not power off within {} s", timeout.as_secs()))
            .with_hint(Hint::WaitLongerOrForceStop { vm: name.to_string() });
    // Then it is QEMU that hangs, whatever its guest did.
    Err(match silent {
        Some(error) => late.because(error),
        None => late,
    })
}

#[cfg(test)]
mod tests;
