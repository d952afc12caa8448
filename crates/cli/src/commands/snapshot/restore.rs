//! `vmrewind snapshot restore`: brings a VM back to a snapshot.

use clap::Args;
use vmrewind_engine::{RestoreMode, RestoreView, SnapshotRestore};

use crate::command_error::CommandError;
use crate::commands::address::address;
use crate::output::human::{duration_ms, printable};
use crate::session::Session;

/// Arguments of `snapshot restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
The disks as they are now are kept as an undo point (`vmrewind snapshot list VM --all`), unless \
--discard-current is given. A running VM is ended first; its guest is not asked.

Examples:
  vmrewind snapshot restore web@before-upgrade
  vmrewind snapshot restore web@before-upgrade --paused
  vmrewind snapshot restore web@clean --discard-current")]
pub(crate) struct RestoreArguments {
    /// Address of the snapshot; VM NAME means the same
    #[arg(value_name = "VM@NAME")]
    address: String,
    #[arg(hide = true, value_name = "NAME")]
    name: Option<String>,
    /// Don't let the guest run yet
    #[arg(long)]
    paused: bool,
    /// Load all memory before the guest runs
    #[arg(long)]
    eager: bool,
    /// Give up the present state in place of keeping it as an undo point
    #[arg(long)]
    discard_current: bool,
}

/// Restores the snapshot.
///
/// # Errors
/// As the engine's `snapshot_restore`.
pub(crate) fn run(session: &Session, arguments: &RestoreArguments) -> Result<(), CommandError> {
    let request = SnapshotRestore {
        address: address(&arguments.address, arguments.name.as_deref())?,
        only_id: None,
        paused: arguments.paused,
        eager: arguments.eager,
        discard_current: arguments.discard_current,
    };
    let view = session.operation()?.snapshot_restore(&request)?;
    session.output.result(&view, || describe(&view))?;
    Ok(())
}

/// `web: back at 'before' (eager), running after 305 ms`, then what is kept and what to know.
pub(crate) fn describe(view: &RestoreView) -> String {
    let when = view.start_ms.map(|ms| format!(" after {}", duration_ms(ms))).unwrap_or_default();
    let mode = match view.mode {
        RestoreMode::Lazy => "lazy",
        RestoreMode::Eager => "eager",
        RestoreMode::Cold => "cold",
    };
    let mut lines = vec![format!("{}: back at '{}' ({mode}), {}{when}", view.vm, view.snapshot, view.state)];
    lines.extend(view.undo.iter().map(|undo| format!("the abandoned disks are kept as {undo}")));
    lines.extend(view.notes.iter().map(|note| format!("note: {}", printable(note))));
    lines.join("\n")
}
