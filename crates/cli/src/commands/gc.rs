//! `vmrewind gc`: frees what no snapshot needs.

use clap::Args;
use vmrewind_engine::GcView;

use crate::command_error::CommandError;
use crate::output::human::{count, size};
use crate::session::Session;

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Deleting a snapshot frees its disk layers at once. Its memory is shared with other snapshots: what none of them \
needs any more is freed here. Nothing that a snapshot needs is touched, and captures and restores can go on; gc \
waits for captures that are under way, up to a minute (then: exit status 6).

In a damaged store nothing is freed (exit status 7): `vmrewind check` tells which snapshots to delete first.

Examples:
  vmrewind gc --dry-run
  vmrewind gc")]
pub(crate) struct GcArguments {
    /// Show what would be freed, and free nothing
    #[arg(long)]
    dry_run: bool,
}

/// Collects.
///
/// # Errors
/// As the engine's `gc`.
pub(crate) fn run(session: &Session, arguments: &GcArguments) -> Result<(), CommandError> {
    let view = match session.look()? {
        None => GcView { dry_run: arguments.dry_run, ..GcView::default() },
        Some(operation) if arguments.dry_run => operation.gc_plan()?,
        Some(operation) => operation.gc()?,
    };
    session.output.result(&view, || describe(&view))?;
    Ok(())
}

fn describe(view: &GcView) -> String {
    let nothing = view.images.is_empty() && view.packs.is_empty() && view.left_files.is_empty();
    if nothing {
        return format!(
            "nothing to free: snapshots need {} of {}",
            size(view.live_bytes),
            size(view.pack_bytes)
        );
    }
    let unused = view.packs.iter().filter(|pack| pack.live_bytes == 0).count();
    let rewritten = view.packs.len() - unused;
    let mut lines = Vec::new();
    let mut line = |number: usize, noun: &str, what: &str| {
        if number > 0 {
            lines.push(format!("{} {what}", count(number, noun)));
        }
    };
    line(view.images.len(), "memory image", "that no snapshot names");
    line(unused, "pack", "that no snapshot needs");
    line(rewritten, "pack", "written anew, without what no snapshot needs");
    line(view.left_files.len(), "file", "left by commands that were killed");
    let verb = if view.dry_run { "would free about" } else { "freed" };
    lines.push(format!("{verb} {}", size(view.freed_bytes)));
    lines.join("\n")
}
