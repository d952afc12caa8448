//! `vmrewind vm start`: starts a VM.

use clap::Args;
use vmrewind_engine::VmStart;

use crate::command_error::CommandError;
use crate::commands::vm::show::state_line;
use crate::session::Session;

/// Arguments of `vm start`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vmrewind vm start web
  vmrewind vm start web --paused      the guest waits for `cont` on the QMP socket")]
pub(crate) struct StartArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Don't let the guest run yet
    #[arg(long)]
    paused: bool,
    /// Boot a clone that was never started, in place of going on from its snapshot's memory
    #[arg(long)]
    cold: bool,
}

/// Starts the VM; it goes on when this command has ended.
///
/// # Errors
/// As the engine's `vm_start`.
pub(crate) fn run(session: &Session, arguments: &StartArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let how = VmStart { paused: arguments.paused, cold: arguments.cold };
    let view = session.operation()?.vm_start(&name, how)?;
    session.output.result(&view, || state_line(&view))?;
    Ok(())
}
