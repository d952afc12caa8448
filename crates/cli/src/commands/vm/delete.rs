//! `vmrewind vm delete`: deletes a VM with its snapshots, after showing what goes.

use clap::Args;
use vmrewind_engine::{Error, Hint, VmDeletePlan};

use crate::command_error::CommandError;
use crate::confirm::{Planned, confirm, yes};
use crate::output::human::{count, size};
use crate::session::Session;

/// Arguments of `vm delete`.
#[derive(Debug, Args)]
#[command(arg = yes(), after_help = "\
The base images, which were there before vmrewind, are never deleted.

Examples:
  vmrewind vm delete web --dry-run
  vmrewind vm delete web
  vmrewind vm delete web --force -y       stop it where it runs, don't ask")]
pub(crate) struct DeleteArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Stop the VM at once where it runs
    #[arg(long)]
    force: bool,
    /// Show what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// Deletes the VM.
///
/// # Errors
/// `Refused` where it runs or nobody confirms; else as the engine's `vm_delete`.
pub(crate) fn run(session: &Session, arguments: &DeleteArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let operation = session.operation()?;
    let plan = operation.vm_delete_plan(&name)?;
    if arguments.dry_run {
        session.output.result(&Planned { dry_run: true, plan: &plan }, || describe(&plan))?;
        return Ok(());
    }
    if plan.running && !arguments.force {
        // Said before the question: the engine would refuse after it.
        let error = Error::refused(format!("VM '{name}' runs"));
        return Err(error.with_hint(Hint::StopOrForceDelete { vm: name.to_string() }).into());
    }
    confirm(session, &describe(&plan), &question(&plan))?;
    let done = operation.vm_delete(&name, arguments.force)?;
    session.output.result(&Planned { dry_run: false, plan: &done }, || {
        format!("{}: deleted, {} freed", done.vm, size(done.bytes))
    })?;
    Ok(())
}

fn question(plan: &VmDeletePlan) -> String {
    let snapshots = match plan.snapshots.len() {
        0 => String::new(),
        number => format!(" and its {}", count(number, "snapshot")),
    };
    format!("Delete VM '{}'{snapshots}, freeing {}?", plan.vm, size(plan.bytes))
}

fn describe(plan: &VmDeletePlan) -> String {
    let mut lines = vec![format!("VM '{}'", plan.vm)];
    if plan.running {
        lines.push("  runs, and would be stopped first".into());
    }
    if !plan.snapshots.is_empty() {
        lines.push(format!("  {}: {}", count(plan.snapshots.len(), "snapshot"), plan.snapshots.join(", ")));
    }
    lines.push(format!("  frees {}", size(plan.bytes)));
    lines.extend(plan.kept.iter().map(|base| format!("  keeps {base}")));
    lines.join("\n")
}
