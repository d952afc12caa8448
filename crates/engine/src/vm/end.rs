//! Ends the QEMU of a VM.

use std::time::Duration;

use crate::error::Result;
use crate::lazy;
use crate::monitor::Monitor;
use crate::root::VmFolder;
use crate::vm::process::Process;
use crate::vm::run_folder::socket;

/// How long QEMU may take to end once it has said that it will: it writes its caches out, to a disk that can be slow.
const QUIT_PATIENCE: Duration = Duration::from_secs(60);

/// Ends QEMU: asked first, so that it writes its caches out, by signal where it does not answer.
pub(crate) fn end_process(process: &Process, folder: &VmFolder) -> Result<()> {
    let asked = Monitor::connect_briefly(&process.run, socket::OPERATION).and_then(|monitor| monitor.quit());
    if asked.is_ok() && process.wait_end(QUIT_PATIENCE) {
        Process::forget(folder)?;
    } else {
        process.kill()?;
    }
    lazy::end(folder)
}
