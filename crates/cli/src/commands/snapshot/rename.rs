//! `vmrewind snapshot rename`: gives a snapshot another name.

use clap::Args;

use crate::command_error::CommandError;
use crate::commands::address::address_and_new;
use crate::session::Session;

/// Arguments of `snapshot rename`.
#[derive(Debug, Args)]
#[command(after_help = "\
An undo point that is given a name becomes a snapshot like any other.

Examples:
  vmrewind snapshot rename web@snap-1 before-upgrade")]
pub(crate) struct RenameArguments {
    /// Address of the snapshot; VM NAME means the same
    #[arg(value_name = "VM@NAME")]
    address: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    name: String,
    #[arg(hide = true, value_name = "NEW")]
    third: Option<String>,
}

/// Renames the snapshot.
///
/// # Errors
/// As the engine's `snapshot_rename`.
pub(crate) fn run(session: &Session, arguments: &RenameArguments) -> Result<(), CommandError> {
    let (address, name) = address_and_new(&arguments.address, &arguments.name, arguments.third.as_deref())?;
    let view = session.operation()?.snapshot_rename(&address, &name.parse()?)?;
    session.output.result(&view, || format!("{address} is now {}@{}", view.vm, view.name))?;
    Ok(())
}
