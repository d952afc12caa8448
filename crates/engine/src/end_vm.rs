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
