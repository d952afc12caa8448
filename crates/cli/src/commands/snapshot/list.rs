//! `vmrewind snapshot list`: snapshots as a table or as a tree.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;
use vmrewind_engine::{DamagedSnapshot, SnapshotListing, SnapshotView, VmName};

use crate::command_error::CommandError;
use crate::output::human::{duration_ms, printable, size, time};
use crate::output::table::{Column, table};
use crate::output::tree::{Node, tree};
use crate::session::Session;

/// Arguments of `snapshot list`.
#[derive(Debug, Args)]
#[command(after_help = "\
A `*` marks the snapshot from which the VM's present state descends. A snapshot whose manifest is damaged is listed \
by its id, which is what `snapshot delete` takes for it.

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
    let SnapshotListing { items: everything, damaged, unreadable } = listing.unwrap_or_default();
    let unreadable = unreadable.into_iter().next().map_or(Ok(()), |error| Err(error.into()));
    if everything.is_empty() && damaged.is_empty() && unreadable.is_err() {
        return unreadable;
    }
    let shown: Vec<&SnapshotView> = everything.iter().filter(|view| arguments.all || !view.undo).collect();
    let document: Vec<Item> =
        shown.iter().map(|view| Item::Sound(view)).chain(damaged.iter().map(Item::Damaged)).collect();
    let printed = session.output.result(&document, || {
        if document.is_empty() {
            return nothing(vm.as_ref(), &everything);
        }
        if arguments.tree {
            return forest(&everything, &damaged, arguments.all);
        }
        let rows = shown.iter().map(|view| row(view, vm.is_none()));
        let rows: Vec<_> = rows.chain(damaged.iter().map(|one| damaged_row(one, vm.is_none()))).collect();
        table(&COLUMNS, &rows, session.output.colours())
    });
    // The list is there; its exit status says that it is not whole, whoever reads it.
    unreadable?;
    Ok(printed?)
}

/// An element of the list: the damaged have a field `damaged`, and no others.
#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Sound(&'a SnapshotView),
    Damaged(&'a DamagedSnapshot),
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

/// A snapshot of which nothing but its id is known for certain.
fn damaged_row(damaged: &DamagedSnapshot, with_vm: bool) -> Vec<String> {
    let DamagedSnapshot { vm, id, .. } = damaged;
    let name = if with_vm { format!("{vm}@{id}") } else { id.clone() };
    let mut row = vec![name, "damaged".to_owned()];
    row.resize(COLUMNS.len() - 1, "-".to_owned());
    row.push(guess(damaged));
    row
}

/// `seems to be 'before-upgrade'`.
fn guess(damaged: &DamagedSnapshot) -> String {
    damaged.name.as_ref().map(|name| format!("seems to be '{name}'")).unwrap_or_default()
}

/// A tree for each VM that has a snapshot; views of one VM stand together.
fn forest(views: &[SnapshotView], damaged: &[DamagedSnapshot], all: bool) -> String {
    let vms = views.iter().map(|view| &view.vm).chain(damaged.iter().map(|one| &one.vm));
    let vms: BTreeSet<&str> = vms.map(String::as_str).collect();
    let mut trees = Vec::new();
    for vm in vms {
        let of_vm: Vec<&SnapshotView> = views.iter().filter(|view| view.vm == vm).collect();
        let damaged = damaged.iter().filter(|one| one.vm == vm);
        let damaged = damaged.map(|one| Node {
            id: format!("/damaged/{}", one.id),
            parent: Some(TOP.to_owned()),
            label: format!("{}  damaged  {}", one.id, guess(one)).trim_end().to_owned(),
        });
        trees.push(tree(&nodes(vm, &of_vm, all).into_iter().chain(damaged).collect::<Vec<_>>()));
    }
    trees.join("\n")
}

/// The id of the VM in its tree. No id with a `/` can be the name of a snapshot.
const TOP: &str = "/vm";

/// The VM at the top, its snapshots, and the present state below the current one.
fn nodes(vm: &str, views: &[&SnapshotView], all: bool) -> Vec<Node> {
    let is_shown = |view: &SnapshotView| all || !view.undo;
    let top = || TOP.to_owned();
    let place = |parent: Option<&str>| Some(nearest_shown(parent, views, all).unwrap_or_else(top));
    let mut nodes = vec![Node { id: top(), parent: None, label: vm.to_owned() }];
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
        let text = forest(views, &[], all);
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
