//! Starts a VM on its active layers.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids::VmName;
use crate::layers::base::check_all_unchanged;
use crate::layers::tidy::tidy;
use crate::lazy;
use crate::record::vm::DiskRecord;
use crate::view::VmView;
use crate::vm::process::Process;
use crate::vm::spawn::{self, Launch, Purpose};

impl Engine {
    /// Starts a VM; with `paused` the guest waits for `cont` on the QMP socket.
    ///
    /// # Errors
    /// `Refused` where it runs already or a base was changed, `Failed` with QEMU's words where QEMU does not start.
    pub fn vm_start(&self, name: &VmName, paused: bool) -> Result<VmView> {
        let held = self.hold_vm(name)?;
        if let Some(process) = Process::find(&held.folder)? {
            return Err(Error::refused(format!("VM '{name}' runs already (pid {})", process.mark.pid))
                .hint(format!("`vmrewind vm stop {name}` stops it")));
        }
        check_all_unchanged(&held.record)?;
        lazy::forget_failure(&held.folder)?;
        tidy(&self.host, &held.folder, &held.record)?;
        let chain = |disk: &DiskRecord| (disk.name.clone(), disk.chain(&disk.active).unwrap_or_default());
        let chains = held.record.disks.iter().map(chain).collect();
        let started = spawn::start(&Launch {
            host: &self.host,
            folder: &held.folder,
            record: &held.record,
            hardware: &held.record.hardware,
            chains: &chains,
            purpose: if paused { Purpose::BootPaused } else { Purpose::Boot },
        })?;
        tracing::info!(vm = %name, pid = started.process.mark.pid, qemu = started.monitor()?.version(), "started");
        drop((started, held));
        self.vm_show(name)
    }
}
