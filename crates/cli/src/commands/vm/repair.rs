//! `vmrewind vm repair`: makes the record of a VM anew, from its snapshots and layers.

use clap::Args;
use vmrewind_engine::{RepairView, VmRepair};

use crate::command_error::CommandError;
use crate::output::human::printable;
use crate::session::{Session, shown};

/// Arguments of `vm repair`.
#[derive(Debug, Args)]
#[command(after_help = "\
For a VM whose vm.json is damaged, gone, or older than its snapshots; and for layers that were changed from outside and \
hold what they should: they are taken as they are. The manifests of the snapshots and the headers of the layers tell \
what the record must say. The old record is kept as vm.json.old, and nothing else is changed. The VM must not run.

Examples:
  vmrewind vm repair web --dry-run
  vmrewind vm repair web
  vmrewind vm repair web --active 0123456789abcdef")]
pub(crate) struct RepairArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Show what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The layer that the VM is to write, where several could be the one; once for each disk
    #[arg(long, value_name = "LAYER")]
    active: Vec<String>,
}

/// Repairs.
///
/// # Errors
/// As the engine's `vm_repair`.
pub(crate) fn run(session: &Session, arguments: &RepairArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let how = VmRepair { dry_run: arguments.dry_run, active: arguments.active.clone() };
    let view = session.operation()?.vm_repair(&name, &how)?;
    session.output.result(&view, || describe(&view))?;
    Ok(())
}

fn describe(view: &RepairView) -> String {
    if view.changes.is_empty() {
        return format!("{}: its record is as it should be", view.vm);
    }
    let done = if view.dry_run { "would be repaired" } else { "repaired" };
    let mut lines = vec![format!("{}: {done}", view.vm)];
    lines.extend(view.changes.iter().map(|change| format!("  {}", printable(change))));
    lines.extend(view.old.as_ref().map(|old| format!("  the old record is kept as '{}'", shown(old))));
    lines.join("\n")
}
