//! The commands: nouns, and a file for each verb: its arguments, what the engine is asked, and how the result is shown.

pub(crate) mod address;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod guard;
pub(crate) mod man;
pub(crate) mod snapshot;
pub(crate) mod usage;
pub(crate) mod vm;

use std::process::ExitCode;

use clap::Subcommand;

use crate::command_error::CommandError;
use crate::session::Session;

/// The nouns, and the commands that have none.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, start, stop and look at VMs
    #[command(subcommand, arg_required_else_help = true)]
    Vm(vm::VmCommand),
    /// Create, restore and look at snapshots
    #[command(subcommand, visible_alias = "snap", arg_required_else_help = true)]
    Snapshot(snapshot::SnapshotCommand),
    /// Run a command on the host; bring the VM back if it fails
    Guard(guard::GuardArguments),
    /// Free what no snapshot needs any more
    Gc(gc::GcArguments),
    /// Look for damage in the store, and tell which snapshots it touches
    Check(check::CheckArguments),
    /// Show what VMs and snapshots take, alone and together
    Usage(usage::UsageArguments),
    /// Check that this host has what vmrewind needs
    Doctor(doctor::DoctorArguments),
    /// Print a script that completes vmrewind's commands in a shell
    Completions(completions::CompletionsArguments),
    /// Write the manual pages into a folder
    Man(man::ManArguments),
}

/// Carries a command out, and gives the exit status. `definition` is that of the whole command line.
///
/// # Errors
/// Why it failed, or why its result could not be printed.
pub(crate) fn run(
    session: &Session,
    command: Command,
    definition: fn() -> clap::Command,
) -> Result<ExitCode, CommandError> {
    match command {
        // Its status is that of the command it ran.
        Command::Guard(arguments) => return guard::run(session, arguments),
        Command::Vm(command) => vm::run(session, command),
        Command::Snapshot(command) => snapshot::run(session, command),
        Command::Gc(arguments) => gc::run(session, &arguments),
        Command::Check(arguments) => check::run(session, &arguments),
        Command::Usage(arguments) => usage::run(session, &arguments),
        Command::Doctor(arguments) => doctor::run(session, &arguments),
        Command::Completions(arguments) => completions::run(&arguments, definition()),
        Command::Man(arguments) => man::run(session, &arguments, definition()),
    }
    .map(|()| ExitCode::SUCCESS)
}
