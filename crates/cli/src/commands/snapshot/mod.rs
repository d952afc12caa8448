//! `vmrewind snapshot ...`: restore points of VMs.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod rename;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod verify;

use clap::Subcommand;

use crate::command_error::CommandError;
use crate::session::Session;

/// The verbs of `snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Create a snapshot of a VM
    Create(create::CreateArguments),
    /// List snapshots
    #[command(visible_alias = "ls")]
    List(list::ListArguments),
    /// Show a snapshot
    Show(show::ShowArguments),
    /// Bring a VM back to a snapshot
    Restore(restore::RestoreArguments),
    /// Delete snapshots
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArguments),
    /// Give a snapshot another name
    Rename(rename::RenameArguments),
    /// Read all of a snapshot and check it
    Verify(verify::VerifyArguments),
}

/// Carries out one of them.
///
/// # Errors
/// Why it failed.
pub(crate) fn run(session: &Session, command: SnapshotCommand) -> Result<(), CommandError> {
    match command {
        SnapshotCommand::Create(arguments) => create::run(session, arguments),
        SnapshotCommand::List(arguments) => list::run(session, &arguments),
        SnapshotCommand::Show(arguments) => show::run(session, &arguments),
        SnapshotCommand::Restore(arguments) => restore::run(session, &arguments),
        SnapshotCommand::Delete(arguments) => delete::run(session, &arguments),
        SnapshotCommand::Rename(arguments) => rename::run(session, &arguments),
        SnapshotCommand::Verify(arguments) => verify::run(session, &arguments),
    }
}
