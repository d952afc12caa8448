//! `vmrewind vm ...`: VMs, their lives and their consoles.

pub(crate) mod clone;
pub(crate) mod console;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod link;
pub(crate) mod list;
pub(crate) mod repair;
pub(crate) mod show;
pub(crate) mod start;
pub(crate) mod stop;

use clap::Subcommand;

use crate::command_error::CommandError;
use crate::session::Session;

/// The verbs of `vm`.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Put a VM under vmrewind's management
    Create(Box<create::CreateArguments>),
    /// Make VMs of a snapshot
    Clone(clone::CloneArguments),
    /// Start a VM
    Start(start::StartArguments),
    /// Stop a VM by its power button, or at once
    Stop(stop::StopArguments),
    /// List all VMs
    #[command(visible_alias = "ls")]
    List(list::ListArguments),
    /// Show a VM
    Show(show::ShowArguments),
    /// Delete a VM and its snapshots, but not its base images
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArguments),
    /// Plug or unplug the network cables of a running VM
    Link(link::LinkArguments),
    /// Make the record of a VM anew, from its snapshots and layers
    Repair(repair::RepairArguments),
    /// Use the serial console of a VM
    Console(console::ConsoleArguments),
}

/// Carries out one of them.
///
/// # Errors
/// Why it failed.
pub(crate) fn run(session: &Session, command: VmCommand) -> Result<(), CommandError> {
    match command {
        VmCommand::Create(arguments) => create::run(session, *arguments),
        VmCommand::Clone(arguments) => clone::run(session, &arguments),
        VmCommand::Start(arguments) => start::run(session, &arguments),
        VmCommand::Stop(arguments) => stop::run(session, &arguments),
        VmCommand::List(_) => list::run(session),
        VmCommand::Show(arguments) => show::run(session, &arguments),
        VmCommand::Delete(arguments) => delete::run(session, &arguments),
        VmCommand::Link(arguments) => link::run(session, &arguments),
        VmCommand::Repair(arguments) => repair::run(session, &arguments),
        VmCommand::Console(arguments) => console::run(session, &arguments),
    }
}
