//! `vmrewind vm stop`: stops a VM by its power button, or at once.

use std::time::Duration;

use clap::Args;
use vmrewind_engine::VmStop;

use crate::command_error::CommandError;
use crate::commands::vm::show::state_line;
use crate::quantity::parse_duration;
use crate::session::Session;

/// Arguments of `vm stop`.
#[derive(Debug, Args)]
#[command(after_help = "\
A guest that does not power off in time runs on, and the exit status is 1.

Examples:
  vmrewind vm stop web
  vmrewind vm stop web --timeout 5m
  vmrewind vm stop web --force        as by pulling the plug")]
pub(crate) struct StopArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Stop at once, without asking the guest
    #[arg(long, conflicts_with = "timeout")]
    force: bool,
    /// How long the guest may take to power off: 30s, 5m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Stops the VM; one that does not run is fine.
///
/// # Errors
/// As the engine's `vm_stop`.
pub(crate) fn run(session: &Session, arguments: &StopArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let how = VmStop { force: arguments.force, timeout: arguments.timeout };
    let view = session.operation()?.vm_stop(&name, how)?;
    session.output.result(&view, || state_line(&view))?;
    Ok(())
}
