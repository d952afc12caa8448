//! `vmrewind snapshot rename`: gives a snapshot another name.

use clap::Args;
use vmrewind_engine::Address;

use crate::command_error::CommandError;
use crate::session::Session;

/// Arguments of `snapshot rename`.
#[derive(Debug, Args)]
#[command(after_help = "\
An undo point that is given a name becomes a snapshot like any other.

Examples:
  vmrewind snapshot rename web@snap-1 before-upgrade")]
pub(crate) struct RenameArguments {
    /// Address of the snapshot
    #[arg(value_name = "VM@NAME")]
    address: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    name: String,
}

/// Renames the snapshot.
///
/// # Errors
/// As the engine's `snapshot_rename`.
pub(crate) fn run(session: &Session, arguments: &RenameArguments) -> Result<(), CommandError> {
    let address: Address = arguments.address.parse()?;
    let name = arguments.name.parse()?;
    let view = session.operation()?.snapshot_rename(&address, &name)?;
    session.output.result(&view, || format!("{address} is now {}@{}", view.vm, view.name))?;
    Ok(())
}
