//! The QEMU processes of this host that vmrewind itself starts: the first kind of [`Machines`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::monitor::Monitor;
use crate::patience::Patience;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::vm::machine::{Machine, Machines, Use};
use crate::vm::process::{Process, resident_bytes};
use crate::vm::run_folder::socket;
use crate::vm::spawn::{self, Launch, Started};

/// Finds and starts QEMU as a process of this host.
#[derive(Debug)]
pub(crate) struct LocalQemu {
    /// How long to wait for it.
    pub(crate) patience: Patience,
}

/// A QEMU process of this host.
#[derive(Debug)]
struct Local {
    process: Process,
    patience: Patience,
}

impl LocalQemu {
    /// A process as a machine.
    pub(crate) fn machine(&self, process: Process) -> Arc<dyn Machine> {
        Arc::new(Local { process, patience: self.patience })
    }
}

impl Machines for LocalQemu {
    fn find(&self, folder: &VmFolder) -> Result<Option<Arc<dyn Machine>>> {
        Ok(Process::find(folder)?.map(|process| self.machine(process)))
    }

    fn start(&self, launch: Launch<'_>) -> Result<Started> {
        spawn::start(launch, self)
    }
}

impl Machine for Local {
    fn mark(&self) -> ProcessMark {
        self.process.mark
    }

    fn run(&self) -> &Path {
        &self.process.run
    }

    fn patience(&self) -> Patience {
        self.patience
    }

    fn channel_within(&self, wanted: Use, patience: Duration) -> Result<Monitor> {
        Monitor::connect(&self.process.run.join(socket::of(wanted)), patience, self.patience)
    }

    fn wait_end(&self, timeout: Duration) -> bool {
        self.process.wait_end(timeout)
    }

    fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.process.mark.pid)
    }
}
