//! `vmrewind snapshot verify`: reads all of a snapshot and checks it.

use clap::Args;

use crate::command_error::CommandError;
use crate::commands::address::address;
use crate::commands::snapshot::show::summary;
use crate::session::Session;

/// Arguments of `snapshot verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every byte of the memory image is read and compared with its checksum, the structure of every disk layer \
is checked, and the base images are looked at for changes. Damage is exit status 7.

Examples:
  vmrewind snapshot verify web@before-upgrade")]
pub(crate) struct VerifyArguments {
    /// Address of the snapshot; VM NAME means the same
    #[arg(value_name = "VM@NAME")]
    address: String,
    #[arg(hide = true, value_name = "NAME")]
    name: Option<String>,
}

/// Verifies the snapshot.
///
/// # Errors
/// As the engine's `snapshot_verify`.
pub(crate) fn run(session: &Session, arguments: &VerifyArguments) -> Result<(), CommandError> {
    let address = address(&arguments.address, arguments.name.as_deref())?;
    let view = session.operation()?.snapshot_verify(&address)?;
    session.output.result(&view, || format!("{address}: sound ({})", summary(&view)))?;
    Ok(())
}
