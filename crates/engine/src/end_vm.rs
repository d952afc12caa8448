//! Ends the QEMU of a VM.

use crate::error::Result;
use crate::lazy;
use crate::root::VmFolder;
use crate::vm::machine::{Machine, Use};
use crate::vm::process::Process;

/// Ends QEMU: asked first, so that it writes its caches out, by signal where it does not answer.
pub(crate) fn end_vm(machine: &dyn Machine, folder: &VmFolder) -> Result<()> {
    let asked = machine.channel_briefly(Use::Operation).and_then(|monitor| monitor.quit());
    if asked.is_ok() && machine.wait_end(machine.patience().quit) {
        Process::forget(folder)?;
    } else {
        machine.kill()?;
    }
    lazy::end(folder)
}

/// Ends a QEMU whose guest was stopped and whose layers are frozen since. By signal: `stop` has made it write out all that it
/// had, and it must write nothing more.
pub(crate) fn end_stopped_vm(machine: &dyn Machine, folder: &VmFolder) -> Result<()> {
    machine.kill()?;
    Process::forget(folder)?;
    lazy::end(folder)
}
