//! `vmrewind snapshot restore`: brings a VM back to a snapshot.

use std::io::{self, IsTerminal};

use clap::Args;
use vmrewind_engine::{RestoreMode, RestoreOrder, RestorePlanView, RestoreView, SnapshotRestore};

use crate::command_error::CommandError;
use crate::commands::address::address;
use crate::confirm::{Planned, confirm};
use crate::output::human::{duration_ms, printable, size};
use crate::session::Session;

/// Arguments of `snapshot restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
The disks as they are now are kept as an undo point (`vmrewind snapshot list VM --all`), unless \
--discard-current is given. A VM that runs goes on until the restored one can take its place, and then \
is ended without its guest being asked; if the restored one does not come up, nothing has changed. On a \
terminal you are asked first, since what the guest has in memory is lost.

Examples:
  vmrewind snapshot restore web@before-upgrade --dry-run
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
    /// Show what would be ended, kept and made, and do nothing
    #[arg(long)]
    dry_run: bool,
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
    if arguments.dry_run {
        let plan = session.operation()?.snapshot_restore_plan(&request)?;
        session.output.result(&Planned { dry_run: true, plan: &plan }, || describe_plan(&plan))?;
        return Ok(());
    }
    // A script has decided; a person may not think of the memory.
    let can_ask = !session.output.is_json() && io::stdin().is_terminal() && io::stderr().is_terminal();
    if can_ask && !session.yes {
        let plan = session.operation()?.snapshot_restore_plan(&request)?;
        if plan.ends_pid.is_some() {
            let question = format!("End VM '{}' as it is now?", plan.vm);
            confirm(session, &describe_plan(&plan), &question)?;
        }
    }
    let view = session.operation()?.snapshot_restore(&request)?;
    session.output.result(&view, || describe(&view))?;
    Ok(())
}

/// What would become of what there is, a line for each thing.
fn describe_plan(plan: &RestorePlanView) -> String {
    let RestorePlanView { vm, snapshot, ends_pid, order, why, .. } = plan;
    let runs = if plan.runs_after { "its guest runs" } else { "its guest does not run" };
    let mut lines = vec![format!("{vm}: back to '{snapshot}' ({}); {runs} then", mode_word(plan.mode))];
    if let Some(pid) = ends_pid {
        let when = match order {
            RestoreOrder::EndThenStart => "before the new one starts",
            RestoreOrder::StartThenEnd => "once the new one is ready",
            RestoreOrder::EndOnly | RestoreOrder::NothingRuns => "and no other follows",
        };
        lines.push(format!("ended:  QEMU {pid}, {when}; what its guest has in memory is lost"));
    }
    lines.extend(
        why.iter().map(|why| format!("        the new one can't start beside it: {}", printable(why))),
    );
    lines.push(match (plan.keeps_undo, plan.abandoned_bytes) {
        (true, bytes) => format!("kept:   the disks as they are now, as an undo point ({})", size(bytes)),
        (false, 0) => "lost:   nothing of the disks".to_owned(),
        (false, bytes) => {
            format!("lost:   what the disks have got since their last snapshot ({})", size(bytes))
        }
    });
    lines.join("\n")
}

fn mode_word(mode: RestoreMode) -> &'static str {
    match mode {
        RestoreMode::Lazy => "lazy",
        RestoreMode::Eager => "eager",
        RestoreMode::Cold => "cold",
    }
}

/// `web: back at 'before' (eager), running after 305 ms`, then what is kept and what to know.
pub(crate) fn describe(view: &RestoreView) -> String {
    let when = view.start_ms.map(|ms| format!(" after {}", duration_ms(ms))).unwrap_or_default();
    let mode = mode_word(view.mode);
    let mut lines = vec![format!("{}: back at '{}' ({mode}), {}{when}", view.vm, view.snapshot, view.state)];
    lines.extend(view.undo.iter().map(|undo| format!("the abandoned disks are kept as {undo}")));
    lines.extend(view.notes.iter().map(|note| format!("note: {}", printable(note))));
    lines.join("\n")
}
