//! The clock of a guest that goes on where it was captured.
//!
//! It can't make an operation fail that is done already: without an agent the result says that the clock is behind.

use std::path::PathBuf;
use std::sync::Arc;

use crate::agent::Agent;
use crate::engine::Operation;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::VmName;
use crate::record::vm::Hardware;
use crate::view::GuestClock;
use crate::vm::machine::Machine;
use crate::vm::{run_folder, spawn};

/// A guest that went on where it was captured, and so knows nothing of the time in between.
pub(crate) struct Resumed<'a> {
    /// The VM.
    pub(crate) name: &'a VmName,
    /// The hardware that its QEMU was started with.
    pub(crate) hardware: &'a Hardware,
    /// It runs.
    pub(crate) machine: &'a dyn Machine,
    /// Whether the guest runs.
    pub(crate) runs: bool,
}

impl Operation {
    /// The socket of a running VM's guest agent; none where its command line has no channel on a socket.
    ///
    /// # Errors
    /// `NotFound`; `Refused` where the VM does not run.
    pub fn guest_agent(&self, name: &VmName) -> Result<Option<PathBuf>> {
        let seen = self.look(name)?;
        running(name, self.ctx.machines().find(&seen.folder)?)?;
        let line = spawn::filled_in(name, &seen.record.hardware, &run_folder::for_users(&seen.folder))?;
        Ok(line.guest_agent().map(|channel| PathBuf::from(channel.socket)))
    }

    /// Sets the clock of a guest that was brought back. Where that can't be done, gives the words that say so.
    pub(crate) fn bring_clock_up(&self, guest: &Resumed<'_>) -> (GuestClock, Option<String>) {
        let behind = |why: &str, how: &str| {
            let note = format!("the guest's clock is behind by the time since the snapshot ({why}); {how}");
            (GuestClock::Behind, Some(note))
        };
        if !guest.runs {
            return behind("the guest is paused", "set it once the guest runs");
        }
        match self.set_clock(guest) {
            Ok(()) => (GuestClock::Set, None),
            Err(error) => {
                tracing::info!(vm = %guest.name, causes = ?error.causes(), "the clock was not set: {error}");
                behind(&error.to_string(), "set it in the guest")
            }
        }
    }

    fn set_clock(&self, guest: &Resumed<'_>) -> Result<()> {
        let line = spawn::filled_in(guest.name, guest.hardware, guest.machine.run())?;
        let mut agent = Agent::find(&self.ctx, line.guest_agent().as_ref(), guest.machine)?;
        agent.set_clock(self.ctx.now())
    }
}

fn running(name: &VmName, machine: Option<Arc<dyn Machine>>) -> Result<Arc<dyn Machine>> {
    machine.ok_or_else(|| {
        Error::refused(format!("VM '{name}' does not run")).with_hint(Hint::StartVm { vm: name.to_string() })
    })
}

#[cfg(test)]
mod tests;
