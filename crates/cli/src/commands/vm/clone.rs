//! `vmrewind vm clone`: makes VMs of a snapshot.

use clap::Args;
use vmrewind_engine::{CloneView, ClonesView, Error, ErrorKind, StartMode, VmClone};

use crate::command_error::CommandError;
use crate::commands::address::address_and_new;
use crate::output::human::{count, duration_ms};
use crate::session::Session;

/// Arguments of `vm clone`.
#[derive(Debug, Args)]
#[command(after_help = "\
A clone is a VM of its own. Its disks are new delta files over the snapshot's, which stay as long as it does. It gets \
a name, a vmgenid, a UUID and MAC addresses of its own; sockets, logs, ports and displays that would collide with its \
parent's are moved. The result lists what was changed, and what has to be made unique in the guest.

Of a snapshot with memory the first start goes on where the snapshot was; its clones share the memory that they don't \
change. Their network links are unplugged then, since the guests still use the parent's addresses. Later starts boot.

Examples:
  vmrewind vm clone web@before-upgrade test
  vmrewind vm clone web@before-upgrade worker --count 10 --start      worker-1 to worker-10
  vmrewind vm clone web@before-upgrade test --cold --start           boots from the snapshot's disks
  vmrewind vm clone web@before-upgrade test --start --link-up \\
    --run-inside 'ip link set eth0 address 52:54:00:aa:bb:cc; hostnamectl set-hostname $VMREWIND_VM'")]
pub(crate) struct CloneArguments {
    /// Address of the snapshot; VM NAME means the same
    #[arg(value_name = "VM@NAME")]
    address: String,
    /// Name of the clone; with --count they are NEW-1 to NEW-N
    #[arg(value_name = "NEW")]
    name: String,
    #[arg(hide = true, value_name = "NEW")]
    third: Option<String>,
    /// Make this many
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// Start them
    #[arg(long)]
    start: bool,
    /// Let their guests boot in place of going on from the snapshot's memory
    #[arg(long)]
    cold: bool,
    /// Leave network links as they were in the snapshot; with --run-inside, plug them once that has succeeded
    #[arg(long)]
    link_up: bool,
    /// Run this in each guest, by /bin/sh and the guest agent; the clone's name is in $VMREWIND_VM
    #[arg(long, value_name = "CMD", requires = "start")]
    run_inside: Option<String>,
}

/// Makes the clones.
///
/// # Errors
/// As the engine's `vm_clone`; where some could not be started, after the result was printed.
pub(crate) fn run(session: &Session, arguments: &CloneArguments) -> Result<(), CommandError> {
    let (address, name) = address_and_new(&arguments.address, &arguments.name, arguments.third.as_deref())?;
    let request = VmClone {
        address,
        name: name.parse()?,
        count: arguments.count,
        start: arguments.start,
        cold: arguments.cold,
        link_up: arguments.link_up,
        inside: arguments.run_inside.clone(),
    };
    let view = session.operation()?.vm_clone(&request)?;
    let printed = session.output.result(&view, || text(&view));
    // The clones are there; the exit status says that not all of them are as asked for, whoever reads the result.
    let failed: Vec<&str> =
        view.clones.iter().filter(|clone| clone.error.is_some()).map(|clone| clone.name.as_str()).collect();
    if failed.is_empty() {
        return Ok(printed?);
    }
    let made = format!("the clones were made, but not all is as asked for: {}", failed.join(", "));
    let hint = "the result says why; `vmrewind vm start NAME` starts one that does not run";
    Err(CommandError::advised(Error::new(ErrorKind::Partial, made), hint))
}

fn text(view: &ClonesView) -> String {
    let mut lines: Vec<String> = view.clones.iter().map(|clone| clone_line(view, clone)).collect();
    if !view.changed.is_empty() {
        lines.push("of their own:".into());
        lines.extend(
            view.changed.iter().map(|it| format!("  {}: {} in place of {}", it.option, it.to, it.from)),
        );
    }
    lines.push("not unique:".into());
    for it in &view.not_unique {
        lines.push(format!("  {}: {}", it.what, it.why));
        lines.push(format!("    {}", it.fix));
    }
    if view.clones.iter().any(|clone| !clone.links_down.is_empty()) {
        lines.push("note: network links are unplugged until `vmrewind vm link NAME up` plugs them".into());
    }
    lines.extend(view.notes.iter().map(|note| format!("note: {note}")));
    if view.clones.len() > 1 {
        lines.push(format!("{} in {}", count(view.clones.len(), "clone"), duration_ms(view.total_ms)));
    }
    lines.join("\n")
}

fn clone_line(view: &ClonesView, clone: &CloneView) -> String {
    let mut line = format!("{}: cloned from {}@{}, {}", clone.name, view.vm, view.snapshot, clone.state);
    if let Some(pid) = clone.pid {
        line += &format!(" (pid {pid})");
    }
    match (clone.pid, clone.start) {
        (Some(_), _) => {}
        (None, StartMode::Warm) => line += ", its first start goes on from memory",
        (None, StartMode::Cold) => line += ", it will boot",
    }
    if let Some(error) = &clone.error {
        line += &format!("; {error}");
    }
    line
}
