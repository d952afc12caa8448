//! `vmrewind vm show`: everything about one VM.

use clap::Args;
use vmrewind_engine::{DiskState, OriginView, RestoreFailure, RestoreProgress, StartMode, VmView};

use crate::command_error::CommandError;
use crate::output::human::{printable, shell_words, size, time};
use crate::output::table::pairs;
use crate::session::{Session, shown};

/// Arguments of `vm show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vmrewind vm show web
  vmrewind vm show web --json | jq -r .qmp        the QMP socket, for your own tools")]
pub(crate) struct ShowArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
}

/// Shows the VM.
///
/// # Errors
/// As the engine's `vm_show`.
pub(crate) fn run(session: &Session, arguments: &ShowArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let view = session.operation()?.vm_show(&name)?;
    session.output.result(&view, || pairs(&lines(&view), session.output.colours()))?;
    Ok(())
}

fn lines(view: &VmView) -> Vec<(&'static str, String)> {
    let pid = view.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let mut lines = vec![
        ("name", view.name.clone()),
        ("state", format!("{}{pid}", view.state)),
        ("why", why(&view.state).to_owned()),
        ("memory to come", view.restore.as_ref().map(coming).unwrap_or_default()),
        ("failure", view.failure.as_ref().map(failed).unwrap_or_default()),
        ("operation", view.operation.clone().unwrap_or_default()),
        ("created", view.created.map_or_else(String::new, time)),
        ("cloned from", view.origin.as_ref().map(origin).unwrap_or_default()),
        ("next start", next_start(view)),
        ("machine", view.machine.clone().unwrap_or_default()),
        ("qemu", view.qemu_version.clone()),
        ("memory", view.memory_bytes.map(size).unwrap_or_default()),
        ("cpus", view.cpus.map(|cpus| cpus.to_string()).unwrap_or_default()),
        ("snapshots", view.snapshots.to_string()),
        (
            "damaged",
            view.damaged_snapshots.iter().map(|id| format!("snapshot {id}")).collect::<Vec<_>>().join("\n"),
        ),
        ("current", view.current.clone().unwrap_or_default()),
        ("qmp", view.qmp.as_deref().map(shown).unwrap_or_default()),
        ("run", shown(&view.run)),
        ("log", shown(&view.log)),
    ];
    let ports = view.ports.iter().map(|(wanted, given)| format!("{wanted} at host port {given}"));
    lines.push(("ports", ports.collect::<Vec<_>>().join("\n")));
    lines.extend(view.disks.iter().map(|disk| ("disk", disk_lines(disk))));
    lines.push(("command", shell_words(&view.command_line)));
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// What a state of trouble means, and what helps.
fn why(state: &str) -> &'static str {
    match state {
        "io-error" => {
            "the guest stands still, since a disk can't be written or read: is a file system full? \
             Then free space, and let it go on with `cont` on the qmp socket, or restore a snapshot"
        }
        _ => "",
    }
}

fn origin(origin: &OriginView) -> String {
    format!("{}@{}", origin.vm, origin.snapshot)
}

fn next_start(view: &VmView) -> String {
    if view.next_start == StartMode::Warm {
        "goes on from the snapshot's memory".into()
    } else {
        String::new()
    }
}

/// `64 % of 512 MiB are here, from 'before'; the guest is running`.
fn coming(restore: &RestoreProgress) -> String {
    let (here, all) = (percent(restore), size(restore.total_bytes));
    format!("{here} of {all} are here, from '{}'; the guest is {}", restore.snapshot, restore.guest)
}

/// How much of its memory a restored VM has.
pub(crate) fn percent(restore: &RestoreProgress) -> String {
    format!("{} %", restore.done_bytes * 100 / restore.total_bytes.max(1))
}

fn failed(failure: &RestoreFailure) -> String {
    format!(
        "stopped, since memory of '{}' could not be read: {}",
        failure.snapshot,
        printable(&failure.message)
    )
}

/// The disk's name and sizes, then its files from the active layer down to the base.
fn disk_lines(disk: &DiskState) -> String {
    let head =
        format!("{}, {}, active layer {}", disk.name, size(disk.virtual_bytes), size(disk.active_bytes));
    [head].into_iter().chain(disk.chain.iter().map(|file| format!("  {file}"))).collect::<Vec<_>>().join("\n")
}

/// `web: running (pid 1234), port 2222 at host port 2222`.
pub(crate) fn state_line(view: &VmView) -> String {
    let mut line = format!("{}: {}", view.name, view.state);
    if let Some(pid) = view.pid {
        line += &format!(" (pid {pid})");
    }
    for (wanted, given) in view.ports.iter().filter(|(wanted, given)| wanted != given) {
        line += &format!(", port {given} in place of {wanted}");
    }
    line
}
