//! The state of a VM as its process and QMP tell it.

use std::time::Instant;

use vmrewind_qemu::qmp::commands::RunState;

use crate::error::Result;
use crate::lazy;
use crate::root::VmFolder;
use crate::vm::machine::{Machines, Use};

/// A VM's state and process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmState {
    /// The product's word for it: `running`, `paused`, `stopped`, `restoring`, `io-error`, ...
    pub(crate) word: String,
    /// The same without what vmrewind does to it: `running` while memory still comes in.
    pub(crate) guest: String,
    /// The QEMU process.
    pub(crate) pid: Option<u32>,
}

/// Asks the VM's QEMU, if there is one.
pub(crate) fn ask(machines: &dyn Machines, folder: &VmFolder) -> Result<VmState> {
    ask_since(machines, folder, Instant::now())
}

/// The same for one of several VMs that are asked since `since`: their QEMUs may take as long together as one of them alone.
pub(crate) fn ask_since(machines: &dyn Machines, folder: &VmFolder, since: Instant) -> Result<VmState> {
    let stopped = || VmState { word: "stopped".into(), guest: "stopped".into(), pid: None };
    let Some(machine) = machines.find(folder)? else { return Ok(stopped()) };
    let pid = Some(machine.mark().pid);
    let brief = machine.patience().brief;
    // Never nothing: those that are asked last must not be called silent for the silence of others.
    let left = brief.saturating_sub(since.elapsed()).max(brief / 5);
    let answer = machine.channel_within(Use::Status, left).and_then(|monitor| monitor.status());
    let guest = match answer {
        Ok(state) => state_word(&state).to_owned(),
        // One that was killed needs a while to be gone.
        Err(_) if machine.wait_end(machine.patience().last_breath) => return Ok(stopped()),
        Err(_) => "unresponsive".to_owned(),
    };
    let restoring = lazy::under_way(folder).is_some_and(|restore| restore.qemu == Some(machine.mark()));
    // A QEMU whose page server was killed can wait for it in its main loop.
    let plain = matches!(guest.as_str(), "running" | "paused" | "unresponsive");
    let word = if restoring && plain { "restoring".into() } else { guest.clone() };
    Ok(VmState { word, guest, pid })
}

/// The product's word for a run state of QEMU.
pub(crate) fn state_word(state: &RunState) -> &str {
    match state {
        RunState::Running => "running",
        RunState::Inmigrate | RunState::RestoreVm => "restoring",
        RunState::Paused
        | RunState::Prelaunch
        | RunState::Postmigrate
        | RunState::FinishMigrate
        | RunState::SaveVm
        | RunState::Debug => "paused",
        RunState::InternalError | RunState::GuestPanicked => "crashed",
        other => other.as_str(),
    }
}
