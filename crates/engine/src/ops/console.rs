//! Finds the serial console of a running VM.

use std::path::PathBuf;

use crate::engine::Operation;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::VmName;
use crate::vm::{run_folder, spawn};

/// Where a VM's serial console is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsolePath(pub PathBuf);

impl Operation {
    /// The socket of a running VM's serial console.
    ///
    /// # Errors
    /// `Refused` where the VM does not run or its command line has no console on a socket.
    pub fn console(&self, name: &VmName) -> Result<ConsolePath> {
        let seen = self.look(name)?;
        if self.ctx.machines().find(&seen.folder)?.is_none() {
            return Err(Error::refused(format!("VM '{name}' does not run"))
                .with_hint(Hint::StartVm { vm: name.to_string() }));
        }
        // By the path that stays the VM's when a restore puts another QEMU in this one's place.
        let line = spawn::filled_in(name, &seen.record.hardware, &run_folder::for_users(&seen.folder))?;
        let socket = line.console_socket().ok_or_else(|| {
            Error::refused(format!("VM '{name}' has no serial console on a socket"))
                .with_hint(Hint::ConsoleOnSocket)
        })?;
        Ok(ConsolePath(PathBuf::from(socket)))
    }
}
