//! `vmrewind usage`: what VMs and snapshots take.

use clap::Args;
use vmrewind_engine::{Error, UsageView, VmName};

use crate::command_error::CommandError;
use crate::output::human::size;
use crate::output::table::{Column, table};
use crate::session::Session;

/// Arguments of `usage`.
#[derive(Debug, Args)]
#[command(after_help = "\
MEMORY is the memory as the guest saw it. EXCLUSIVE is what the store keeps for this VM or snapshot alone: deleting \
it frees that, after `vmrewind gc`. SHARED is kept for others too. LAYERS is what the disks' delta files take.

Examples:
  vmrewind usage
  vmrewind usage web db
  vmrewind usage --json | jq '.vms[] | {vm, exclusive_bytes}'")]
pub(crate) struct UsageArguments {
    /// The VMs [default: all]
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

const COLUMNS: [Column; 5] =
    [("NAME", false), ("MEMORY", true), ("EXCLUSIVE", true), ("SHARED", true), ("LAYERS", true)];

/// Shows the usage.
///
/// # Errors
/// As the engine's `usage`.
pub(crate) fn run(session: &Session, arguments: &UsageArguments) -> Result<(), CommandError> {
    let vms: Vec<VmName> = arguments.vms.iter().map(|vm| vm.parse()).collect::<Result<_, Error>>()?;
    let operation = if vms.is_empty() { session.look()? } else { Some(session.operation()?) };
    let view = operation.map(|operation| operation.usage(&vms)).transpose()?.unwrap_or_default();
    session.output.result(&view, || describe(&view, session.output.colours()))?;
    Ok(())
}

fn describe(view: &UsageView, colours: bool) -> String {
    let mut rows = Vec::new();
    for vm in &view.vms {
        rows.push(vec![
            vm.vm.clone(),
            size(vm.logical_bytes),
            size(vm.exclusive_bytes),
            size(vm.shared_bytes),
            size(vm.layer_bytes),
        ]);
        rows.extend(vm.snapshots.iter().map(|snapshot| {
            vec![
                format!("  @{}", snapshot.name),
                size(snapshot.logical_bytes),
                size(snapshot.exclusive_bytes),
                size(snapshot.shared_bytes),
                String::new(),
            ]
        }));
    }
    let total = format!("the store takes {}", size(view.stored_bytes));
    if rows.is_empty() { total } else { format!("{}\n{total}", table(&COLUMNS, &rows, colours)) }
}
