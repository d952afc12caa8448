//! `vmrewind snapshot list`: snapshots as a table or as a tree.

use std::collections::BTreeSet;

use clap::Args;
use vmrewind_engine::{Listing, SnapshotView, VmName};

use crate::command_error::CommandError;
use crate::output::human::{duration_ms, printable, size, time};
use crate::output::table::{Column, table};
use crate::output::tree::{Node, tree};
use crate::session::Session;

/// Arguments of `snapshot list`.
#[derive(Debug, Args)]
#[command(after_help = "\
A `*` marks the snapshot from which the VM's present state descends.

Examples:
  vmrewind snapshot list
  vmrewind snapshot list web --tree
  vmrewind snapshot list web --all --json")]
pub(crate) struct ListArguments {
    /// Name of the VM [default: all VMs]
    #[arg(value_name = "VM")]
    vm: Option<String>,
    /// Draw the tree of snapshots, with the present state as (now)
    #[arg(long)]
    tree: bool,
    /// List undo points too: what restores kept of the state they abandoned
    #[arg(long)]
    all: bool,
}

const COLUMNS: [Column; 8] = [
    ("NAME", false),
    ("GRADE", false),
    ("CREATED", false),
    ("PAUSE", true),
    ("MEMORY", true),
    ("DISKS", true),
    ("PARENT", false),
    ("MESSAGE", false),
];

/// Lists snapshots, oldest first.
///
/// # Errors
/// As the engine's `snapshot_list`.
pub(crate) fn run(session: &Session, arguments: &ListArguments) -> Result<(), CommandError> {
    let vm: Option<VmName> = arguments.vm.as_deref().map(str::parse).transpose()?;
    // Undo points are always asked for: what descends from a hidden one still has its place in the tree.
    let operation = if vm.is_some() { Some(session.operation()?) } else { session.look()? };
    let listing = operation.map(|operation| operation.snapshot_list(vm.as_ref(), true)).transpose()?;
    let Listing { items: everything, unreadable } = listing.unwrap_or_default();
    let unreadable = unreadable.into_iter().next().map_or(Ok(()), |error| Err(error.into()));
    if everything.is_empty() && unreadable.is_err() {
        return unreadable;
    }
    let shown: Vec<&SnapshotView> = everything.iter().filter(|view| arguments.all || !view.undo).collect();
    let printed = session.output.result(&shown, || {
        if shown.is_empty() {
            return nothing(vm.as_ref(), &everything);
        }
        if arguments.tree {
            return forest(&everything, arguments.all);
        }
        let rows: Vec<_> = shown.iter().map(|view| row(view, vm.is_none())).collect();
        table(&COLUMNS, &rows, session.output.colours())
    });
    // The list is there; its exit status says that it is not whole, whoever reads it.
    unreadable?;
    Ok(printed?)
}

fn nothing(vm: Option<&VmName>, hidden: &[SnapshotView]) -> String {
    let name = vm.map_or("VM", VmName::as_str);
    if hidden.is_empty() {
        format!("no snapshots; `vmrewind snapshot create {name}` makes one")
    } else {
        "no snapshots but undo points; --all lists them".into()
    }
}

fn row(view: &SnapshotView, with_vm: bool) -> Vec<String> {
    let name = if with_vm { format!("{}@{}", view.vm, view.name) } else { view.name.clone() };
    let dash = || "-".to_owned();
    vec![
        if view.current { format!("{name} *") } else { name },
        view.grade.as_str().to_owned(),
        time(view.created),
        if view.pause_ms > 0.0 { duration_ms(view.pause_ms) } else { dash() },
        view.memory.as_ref().map_or_else(dash, |memory| size(memory.stored_bytes)),
        size(view.disks.iter().map(|disk| disk.bytes).sum()),
        view.parent.clone().unwrap_or_else(dash),
        view.message.clone().unwrap_or_default(),
    ]
}

/// A tree for each VM that has a snapshot; views of one VM stand together.
fn forest(views: &[SnapshotView], all: bool) -> String {
    let vms: BTreeSet<&str> = views.iter().map(|view| view.vm.as_str()).collect();
    let mut trees = Vec::new();
    for vm in vms {
        let of_vm: Vec<&SnapshotView> = views.iter().filter(|view| view.vm == vm).collect();
        trees.push(tree(&nodes(vm, &of_vm, all)));
    }
    trees.join("\n")
}

/// The VM at the top, its snapshots, and the present state below the current one.
fn nodes(vm: &str, views: &[&SnapshotView], all: bool) -> Vec<Node> {
    let is_shown = |view: &SnapshotView| all || !view.undo;
    // Neither of these ids can be the name of a snapshot.
    let top = "/vm".to_owned();
    let place = |parent: Option<&str>| Some(nearest_shown(parent, views, all).unwrap_or_else(|| top.clone()));
    let mut nodes = vec![Node { id: top.clone(), parent: None, label: vm.to_owned() }];
    nodes.extend(views.iter().filter(|view| is_shown(view)).map(|view| Node {
        id: view.name.clone(),
        parent: place(view.parent.as_deref()),
        label: label(view),
    }));
    let current = views.iter().find(|view| view.current).map(|view| view.name.as_str());
    nodes.push(Node { id: "/now".into(), parent: place(current), label: "(now)".into() });
    nodes
}

/// The nearest snapshot at or above `start` that is shown.
fn nearest_shown(start: Option<&str>, views: &[&SnapshotView], all: bool) -> Option<String> {
    let mut next = start;
    for _ in 0..=views.len() {
        let view = views.iter().find(|view| Some(view.name.as_str()) == next)?;
        if all || !view.undo {
            return Some(view.name.clone());
        }
        next = view.parent.as_deref();
    }
    None
}

fn label(view: &SnapshotView) -> String {
    let kind = if view.undo { "undo point" } else { view.grade.as_str() };
    let message =
        view.message.as_deref().map(|message| format!("  {}", printable(message))).unwrap_or_default();
    format!("{}  {kind}, {}{message}", view.name, time(view.created))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmrewind_engine::Method;

    fn view(name: &str, parent: Option<&str>, undo: bool, current: bool) -> SnapshotView {
        SnapshotView {
            vm: "web".into(),
            name: name.into(),
            id: String::new(),
            parent: parent.map(str::to_owned),
            children: Vec::new(),
            working_set: None,
            clones: Vec::new(),
            created: "2026-01-02T03:04:05Z".parse().unwrap(),
            message: None,
            labels: Default::default(),
            grade: vmrewind_engine::Grade::Live,
            method: Method::Precopy,
            pause_ms: 6.2,
            total_ms: 1400.0,
            disks: Vec::new(),
            memory: None,
            current,
            undo,
            locked_until: None,
            deleted: None,
            machine: None,
            qemu_version: "10.0.2".into(),
            command_line: Vec::new(),
        }
    }

    /// The first word of each line, with what is drawn before it.
    fn drawn(views: &[SnapshotView], all: bool) -> Vec<String> {
        let text = forest(views, all);
        text.lines()
            .map(|line| line.split("  l").next().unwrap().split("  u").next().unwrap().to_owned())
            .collect()
    }

    /// A hidden undo point must not tear off what was made after it.
    #[test]
    fn the_tree_without_and_with_undo_points() {
        let views = [
            view("a", None, false, false),
            view("undo-1", Some("a"), true, false),
            view("b", Some("undo-1"), false, true),
        ];
        assert_eq!(drawn(&views, false), ["web", "└─ a", "   └─ b", "      └─ (now)"]);
        assert_eq!(drawn(&views, true), ["web", "└─ a", "   └─ undo-1", "      └─ b", "         └─ (now)"]);
    }

    #[test]
    fn rows_mark_the_current_one() {
        assert_eq!(row(&view("a", None, false, true), true)[0], "web@a *");
        assert_eq!(row(&view("a", None, false, false), false)[0], "a");
        assert_eq!(row(&view("a", None, false, false), false)[3], "6.2 ms");
    }
}
