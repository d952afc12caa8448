//! The state of a VM as its process and QMP tell it.

use vmrewind_qemu::qmp::commands::RunState;

use crate::error::Result;
use crate::monitor::Monitor;
use crate::root::VmFolder;
use crate::vm::process::Process;
use crate::vm::run_folder::socket;

/// A VM's state and process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmState {
    /// The product's word for it: `running`, `paused`, `stopped`, `restoring`, `io-error`, ...
    pub(crate) word: String,
    /// The QEMU process.
    pub(crate) pid: Option<u32>,
}

/// Asks the VM's QEMU, if there is one.
pub(crate) fn ask(folder: &VmFolder) -> Result<VmState> {
    let Some(process) = Process::find(folder)? else {
        return Ok(VmState { word: "stopped".into(), pid: None });
    };
    let pid = Some(process.mark.pid);
    let answer = Monitor::connect_briefly(&process.run, socket::STATUS).and_then(|monitor| monitor.status());
    let word = match answer {
        Ok(state) => state_word(&state).to_owned(),
        Err(_) if !process.is_alive() => return Ok(VmState { word: "stopped".into(), pid: None }),
        Err(_) => "unresponsive".to_owned(),
    };
    Ok(VmState { word, pid })
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
