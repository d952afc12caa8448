//! `vmrewind vm list`: all VMs, one line each.

use clap::Args;
use vmrewind_engine::{Listing, VmView};

use crate::command_error::CommandError;
use crate::commands::vm::show::percent;
use crate::output::human::size;
use crate::output::table::{Column, table};
use crate::session::Session;

/// Arguments of `vm list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vmrewind vm list
  vmrewind vm list --json | jq -r '.[] | select(.state == \"running\") | .name'")]
pub(crate) struct ListArguments {}

const COLUMNS: [Column; 9] = [
    ("NAME", false),
    ("STATE", false),
    ("PID", true),
    ("CPUS", true),
    ("MEMORY", true),
    ("DISKS", true),
    ("SNAPSHOTS", true),
    ("CURRENT", false),
    ("CLONED FROM", false),
];

/// Lists all VMs by name.
///
/// # Errors
/// As the engine's `vm_list`.
pub(crate) fn run(session: &Session) -> Result<(), CommandError> {
    let listing = session.look()?.map(|operation| operation.vm_list()).transpose()?;
    let Listing { items: views, unreadable } = listing.unwrap_or_default();
    let printed = session.output.result(&views, || {
        if views.is_empty() {
            return "no VMs; `vmrewind vm create --help` shows how to make one".into();
        }
        // The last column is there where there are clones.
        let columns = COLUMNS.len() - usize::from(views.iter().all(|view| view.origin.is_none()));
        let rows: Vec<_> = views.iter().map(|view| row(view)[..columns].to_vec()).collect();
        table(&COLUMNS[..columns], &rows, session.output.colours())
    });
    // The list is there; its exit status says that it is not whole, whoever reads it.
    match unreadable.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(printed?),
    }
}

/// `3`, or `3 (1 damaged)`.
fn snapshots(view: &VmView) -> String {
    match view.damaged_snapshots.len() {
        0 => view.snapshots.to_string(),
        damaged => format!("{} ({damaged} damaged)", view.snapshots),
    }
}

fn row(view: &VmView) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let come = view.restore.as_ref().map(|restore| format!(" {}", percent(restore))).unwrap_or_default();
    let busy = view.operation.as_ref().map(|operation| format!(" ({operation})")).unwrap_or_default();
    vec![
        view.name.clone(),
        format!("{}{come}{busy}", view.state),
        or_dash(view.pid.map(|pid| pid.to_string())),
        or_dash(view.cpus.map(|cpus| cpus.to_string())),
        or_dash(view.memory_bytes.map(size)),
        view.disks.len().to_string(),
        snapshots(view),
        or_dash(view.current.clone()),
        or_dash(view.origin.as_ref().map(|origin| format!("{}@{}", origin.vm, origin.snapshot))),
    ]
}
