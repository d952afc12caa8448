//! `vmrewind vm link`: plugs and unplugs the network cables of a running VM.

use clap::{Args, ValueEnum};
use vmrewind_engine::VmLink;

use crate::command_error::CommandError;
use crate::output::human::printable;
use crate::session::Session;

/// Arguments of `vm link`.
#[derive(Debug, Args)]
#[command(after_help = "\
A clone that goes on from memory begins with its cables unplugged, since its guest still uses the parent's addresses.

Examples:
  vmrewind vm link test up
  vmrewind vm link web down --nic nic0")]
pub(crate) struct LinkArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Plug or unplug
    #[arg(value_name = "STATE")]
    link: Link,
    /// Only this network device, by its id in QEMU
    #[arg(long, value_name = "ID")]
    nic: Option<String>,
}

/// How a cable is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Link {
    /// Plugged
    Up,
    /// Unplugged
    Down,
}

/// Plugs or unplugs.
///
/// # Errors
/// As the engine's `vm_link`.
pub(crate) fn run(session: &Session, arguments: &LinkArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let how = VmLink { up: arguments.link == Link::Up, nic: arguments.nic.clone() };
    let view = session.operation()?.vm_link(&name, &how)?;
    session.output.result(&view, || {
        let nics: Vec<String> = view.nics.iter().map(|nic| printable(nic)).collect();
        format!("{}: {} {}", view.vm, nics.join(", "), view.link)
    })?;
    Ok(())
}
