//! `vmrewind snapshot show`: everything about one snapshot.

use clap::Args;
use vmrewind_engine::{SnapshotView, WorkingSetView};

use crate::command_error::CommandError;
use crate::commands::address::address;
use crate::output::human::{duration_ms, shell_words, size, time};
use crate::output::table::pairs;
use crate::session::Session;

/// Arguments of `snapshot show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vmrewind snapshot show web@before-upgrade
  vmrewind snapshot show web@before-upgrade --json | jq .memory.stored_bytes")]
pub(crate) struct ShowArguments {
    /// Address of the snapshot; VM NAME means the same
    #[arg(value_name = "VM@NAME")]
    address: String,
    #[arg(hide = true, value_name = "NAME")]
    name: Option<String>,
}

/// Shows the snapshot.
///
/// # Errors
/// As the engine's `snapshot_show`.
pub(crate) fn run(session: &Session, arguments: &ShowArguments) -> Result<(), CommandError> {
    let address = address(&arguments.address, arguments.name.as_deref())?;
    let view = session.operation()?.snapshot_show(&address)?;
    session.output.result(&view, || pairs(&lines(&view), session.output.colours()))?;
    Ok(())
}

fn lines(view: &SnapshotView) -> Vec<(&'static str, String)> {
    let memory = view.memory.as_ref().map(|memory| {
        let (all, zero) = (size(memory.bytes), size(memory.zero_bytes));
        format!("{all}, of it {zero} zero; {} stored", size(memory.stored_bytes))
    });
    let kept = view.memory.as_ref().and_then(|memory| {
        let (exclusive, shared) = (memory.exclusive_bytes?, memory.shared_bytes?);
        Some(format!("{} for this snapshot alone, {} shared with others", size(exclusive), size(shared)))
    });
    let labels: Vec<String> = view.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let disks =
        view.disks.iter().map(|disk| format!("{}, layer {}, {}", disk.name, disk.layer, size(disk.bytes)));
    let mut lines = vec![
        ("snapshot", format!("{}@{}", view.vm, view.name)),
        ("id", view.id.clone()),
        ("grade", view.grade.as_str().to_owned()),
        ("current", if view.current { "yes".into() } else { "no".into() }),
        ("undo point", if view.undo { "yes".into() } else { String::new() }),
        ("created", time(view.created)),
        ("message", view.message.clone().unwrap_or_default()),
        ("labels", labels.join("\n")),
        ("parent", view.parent.clone().unwrap_or_default()),
        ("children", view.children.join(", ")),
        ("clones", view.clones.join(", ")),
        ("method", view.method.as_str().to_owned()),
        ("pause", if view.pause_ms > 0.0 { duration_ms(view.pause_ms) } else { String::new() }),
        ("took", duration_ms(view.total_ms)),
        ("memory", memory.unwrap_or_default()),
        ("kept", kept.unwrap_or_default()),
        ("working set", view.working_set.as_ref().map(working_set).unwrap_or_default()),
        ("disks", disks.collect::<Vec<_>>().join("\n")),
        ("machine", view.machine.clone().unwrap_or_default()),
        ("qemu", view.qemu_version.clone()),
        ("command", shell_words(&view.command_line)),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// `12 MiB, learnt from 3 restores`.
fn working_set(set: &WorkingSetView) -> String {
    match set.restores {
        0 => format!("{}, a guess made at the capture", size(set.bytes)),
        1 => format!("{}, learnt from one restore", size(set.bytes)),
        restores => format!("{}, learnt from {restores} restores", size(set.bytes)),
    }
}

/// What a snapshot holds, in a few words: `live, precopy, guest paused 6.2 ms, 312 MiB of memory stored`.
pub(crate) fn summary(view: &SnapshotView) -> String {
    let mut words = vec![view.grade.as_str().to_owned()];
    if let Some(memory) = &view.memory {
        words.push(view.method.as_str().to_owned());
        words.push(format!("guest paused {}", duration_ms(view.pause_ms)));
        words.push(format!("{} of memory stored", size(memory.stored_bytes)));
    } else if view.pause_ms > 0.0 {
        words.push(format!("guest paused {}", duration_ms(view.pause_ms)));
    }
    words.join(", ")
}
