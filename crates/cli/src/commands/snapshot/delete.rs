//! `vmrewind snapshot delete`: deletes snapshots, after showing what goes.

use clap::Args;
use vmrewind_engine::DeletePlan;

use crate::command_error::CommandError;
use crate::commands::address::addresses;
use crate::confirm::{Planned, confirm, yes};
use crate::output::human::{count, size};
use crate::session::Session;

/// Arguments of `snapshot delete`.
#[derive(Debug, Args)]
#[command(arg = yes(), after_help = "\
Several snapshots of one VM are deleted all or none. A snapshot whose layers something else still \
reads through is refused. One whose manifest is damaged is deleted by its id (`vmrewind snapshot list`); as long as \
it is there, it may read any layer of its VM.

Examples:
  vmrewind snapshot delete web@old --dry-run
  vmrewind snapshot delete web@old web@older
  vmrewind snapshot delete web@old -y")]
pub(crate) struct DeleteArguments {
    /// Addresses of the snapshots; of one VM, VM NAME... means the same
    #[arg(value_name = "VM@NAME", required = true)]
    addresses: Vec<String>,
    /// Show what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// Deletes the snapshots.
///
/// # Errors
/// `Refused` where nobody confirms; else as the engine's `snapshot_delete`.
pub(crate) fn run(session: &Session, arguments: &DeleteArguments) -> Result<(), CommandError> {
    let addresses = addresses(&arguments.addresses)?;
    let operation = session.operation()?;
    let plan = operation.snapshot_delete_plan(&addresses)?;
    if arguments.dry_run {
        session.output.result(&Planned { dry_run: true, plan: &plan }, || describe(&plan))?;
        return Ok(());
    }
    confirm(session, &describe(&plan), &question(&plan))?;
    let done = operation.snapshot_delete(&addresses)?;
    session.output.result(&Planned { dry_run: false, plan: &done }, || {
        format!("deleted {}, {} freed", done.snapshots.join(", "), size(done.bytes))
    })?;
    Ok(())
}

fn question(plan: &DeletePlan) -> String {
    format!("Delete {}, freeing {}?", count(plan.snapshots.len(), "snapshot"), size(plan.bytes))
}

fn describe(plan: &DeletePlan) -> String {
    let mut lines: Vec<String> =
        plan.snapshots.iter().map(|snapshot| format!("snapshot {snapshot}")).collect();
    lines.extend(plan.layers.iter().map(|layer| format!("  layer {layer}")));
    if plan.images > 0 {
        lines.push(format!("  {}", count(plan.images, "memory image")));
    }
    let of_memory = if plan.images > 0 { " (memory: by the next `vmrewind gc`)" } else { "" };
    lines.push(format!("  frees {}{of_memory}", size(plan.bytes)));
    lines.join("\n")
}
