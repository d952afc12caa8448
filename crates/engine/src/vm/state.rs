//! The state of a VM as its process and QMP tell it.

use vmrewind_qemu::qmp::commands::RunState;

use crate::error::Result;
use crate::lazy;
use crate::monitor::Monitor;
use crate::root::VmFolder;
use crate::vm::process::Process;
use crate::vm::run_folder::socket;

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
pub(crate) fn ask(folder: &VmFolder) -> Result<VmState> {
    let stopped = || VmState { word: "stopped".into(), guest: "stopped".into(), pid: None };
    let Some(process) = Process::find(folder)? else { return Ok(stopped()) };
    let pid = Some(process.mark.pid);
    let answer = Monitor::connect_briefly(&process.run, socket::STATUS).and_then(|monitor| monitor.status());
    let guest = match answer {
        Ok(state) => state_word(&state).to_owned(),
        Err(_) if !process.is_alive() => return Ok(stopped()),
        Err(_) => "unresponsive".to_owned(),
    };
    let restoring = lazy::under_way(folder).is_some_and(|record| record.qemu == Some(process.mark));
    let plain = matches!(guest.as_str(), "running" | "paused");
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
