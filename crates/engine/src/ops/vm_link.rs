//! Plugs and unplugs the network cables of a running VM.

use serde::Serialize;

use crate::engine::Operation;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::VmName;
use crate::vm::machine::Use;

/// What is to be done to which cables.
#[derive(Debug, Clone)]
pub struct VmLink {
    /// Plugged, or unplugged.
    pub up: bool,
    /// The network device; all of the VM's where none is named.
    pub nic: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// The VM.
    pub vm: String,
    /// `up` or `down`.
    pub link: &'static str,
    /// The network devices that are so now.
    pub nics: Vec<String>,
}

impl Operation {
    /// Plugs or unplugs cables of a running VM: what its guest sees, not what its host is connected to.
    ///
    /// # Errors
    /// `Refused` where the VM does not run or has no such device; `Failed` where QEMU does not do it.
    pub fn vm_link(&self, name: &VmName, how: &VmLink) -> Result<LinkView> {
        let held = self.hold_vm(name)?;
        let Some(machine) = self.ctx.machines().find(&held.folder)? else {
            return Err(Error::refused(format!("VM '{name}' does not run")).with_hint(Hint::LinksOfRunning));
        };
        let monitor = machine.channel(Use::Operation)?;
        let nics = chosen(name, monitor.network_devices()?, how.nic.as_deref())?;
        for nic in &nics {
            monitor.set_link(nic, how.up)?;
        }
        Ok(LinkView { vm: name.to_string(), link: if how.up { "up" } else { "down" }, nics })
    }
}

/// The named one of a VM's devices, or all.
fn chosen(name: &VmName, all: Vec<String>, wanted: Option<&str>) -> Result<Vec<String>> {
    if all.is_empty() {
        return Err(Error::refused(format!("VM '{name}' has no network device")));
    }
    let Some(wanted) = wanted else { return Ok(all) };
    if all.iter().any(|nic| nic == wanted) {
        return Ok(vec![wanted.to_owned()]);
    }
    Err(Error::refused(format!("VM '{name}' has no network device '{wanted}'"))
        .with_hint(Hint::NetworkDevices { nics: all }))
}
