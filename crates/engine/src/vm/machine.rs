//! What the engine asks of a running VM, and how one is found and started.
//!
//! Everything above this module knows a VM that runs as a [`Machine`]: somebody to talk to by [`Machine::channel`], who
//! lives or does not. That it is a process that vmrewind spawned, with sockets in a run folder, is known to
//! [`crate::vm::local`] and the modules that it is made of.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::monitor::Monitor;
use crate::patience::Patience;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::vm::spawn::{Launch, Started};

/// What a connection to a VM's QEMU is for. Each serves one client at a time, so that none waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// The operation that holds the VM.
    Operation,
    /// Short questions, by anybody.
    Status,
    /// The guard of a pause.
    Guard,
}

/// A VM that runs, or did when it was found.
pub(crate) trait Machine: Debug + Send + Sync {
    /// Which process it is.
    fn mark(&self) -> ProcessMark;

    /// The folder of its sockets and logs.
    fn run(&self) -> &Path;

    /// How long to wait for it.
    fn patience(&self) -> Patience;

    /// Connects to it within `patience`.
    ///
    /// # Errors
    /// `Failed` where it is gone or does not answer.
    fn channel_within(&self, wanted: Use, patience: Duration) -> Result<Monitor>;

    /// Waits for its end, at most `timeout`. Returns whether it has ended.
    fn wait_end(&self, timeout: Duration) -> bool;

    /// Ends it at once, and waits until it is gone.
    ///
    /// # Errors
    /// `Failed` where that may not be done, or it does not go.
    fn kill(&self) -> Result<()>;

    /// The bytes of memory that it holds at this moment. `None` where it is gone.
    fn resident_bytes(&self) -> Option<u64>;

    /// Whether it has not ended.
    fn is_alive(&self) -> bool {
        !self.wait_end(Duration::ZERO)
    }

    /// Connects to it.
    ///
    /// # Errors
    /// As of [`Machine::channel_within`].
    fn channel(&self, wanted: Use) -> Result<Monitor> {
        self.channel_within(wanted, self.patience().answer)
    }

    /// Connects with little patience, for questions whose answer can be "it does not say".
    ///
    /// # Errors
    /// As of [`Machine::channel_within`].
    fn channel_briefly(&self, wanted: Use) -> Result<Monitor> {
        self.channel_within(wanted, self.patience().brief)
    }
}

/// Finds and starts VMs.
pub(crate) trait Machines: Send + Sync {
    /// The VM in `folder`, if it runs.
    ///
    /// # Errors
    /// `Busy` where it runs and can't be reached, or is about to be gone.
    fn find(&self, folder: &VmFolder) -> Result<Option<Arc<dyn Machine>>>;

    /// Starts a VM and waits until it answers.
    ///
    /// # Errors
    /// `Failed` where it does not start; QEMU's own words are the cause. Nothing runs then.
    fn start(&self, launch: Launch<'_>) -> Result<Started>;
}
