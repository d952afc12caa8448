//! `vmrewind check`: looks for damage in the store.

use clap::Args;
use vmrewind_engine::{CheckView, Error};

use crate::command_error::CommandError;
use crate::output::human::{count, size};
use crate::session::Session;

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
The structure of the store is checked: that everything that snapshots need is there. With --read-data every byte \
of it is read and compared with its checksum as well. Each finding is listed with the snapshots that it touches; \
all others are sound. Damage is exit status 7. The index is no finding: it is mended.

Disk layers are checked by `vmrewind snapshot verify`.

Examples:
  vmrewind check
  vmrewind check --read-data
  vmrewind check --read-data --json | jq -r '.damaged_snapshots[]'")]
pub(crate) struct CheckArguments {
    /// Read and verify every byte
    #[arg(long)]
    read_data: bool,
}

/// Checks the store.
///
/// # Errors
/// `Damaged` where damage was found, after the report; else as the engine's `check`.
pub(crate) fn run(session: &Session, arguments: &CheckArguments) -> Result<(), CommandError> {
    let view = match session.look()? {
        None => CheckView { ok: true, read_data: arguments.read_data, ..CheckView::default() },
        Some(operation) => operation.check(arguments.read_data)?,
    };
    let printed = session.output.result(&view, || describe(&view));
    if view.ok {
        return Ok(printed?);
    }
    let message = match &view.damaged_snapshots[..] {
        [] => "the store is damaged; no snapshot is touched".to_owned(),
        snapshots => format!("damaged: {}", snapshots.join(", ")),
    };
    Err(CommandError::advised(
        Error::damaged(message),
        "the memory of these snapshots can't be restored whole, their disks can (docs/format.md); delete them with \
         `vmrewind snapshot delete` when they are of no use",
    ))
}

fn describe(view: &CheckView) -> String {
    let mut lines: Vec<String> = Vec::new();
    for damage in &view.damage {
        let more =
            if damage.objects > 1 { format!(" (and {} more)", damage.objects - 1) } else { String::new() };
        lines.push(format!("damaged: {}{more}", damage.what));
        lines.extend(damage.snapshots.iter().map(|snapshot| format!("  touches {snapshot}")));
        if damage.snapshots.is_empty() {
            lines.push("  touches no snapshot".to_owned());
        }
    }
    lines.extend(view.older_snapshots.iter().map(|snapshot| {
        format!("older: the memory of {snapshot} was written by an older version and can't be read")
    }));
    let read = if view.read_data { format!(", {} read", size(view.read_bytes)) } else { String::new() };
    let number = |number: u64, noun: &str| count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let verdict = if view.ok { "no damage found" } else { "DAMAGED" };
    lines.push(format!(
        "{verdict}: {}, {}, {}{read}",
        number(view.images, "memory image"),
        number(view.packs, "pack"),
        number(view.objects, "object"),
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use vmrewind_engine::DamageView;

    use super::*;

    /// Whoever reads the report must see at once which snapshots are no good, and that the others are.
    #[test]
    fn each_finding_names_its_snapshots() {
        let finding = |what: &str, objects, snapshots: &[&str]| DamageView {
            what: what.into(),
            objects,
            snapshots: snapshots.iter().map(|name| (*name).to_owned()).collect(),
        };
        let view = CheckView {
            ok: false,
            read_data: true,
            images: 3,
            packs: 1,
            objects: 80,
            read_bytes: 5 << 20,
            damage: vec![finding("group ab", 2, &["web@one", "web@two"]), finding("pack cd", 1, &[])],
            damaged_snapshots: Vec::new(),
            older_snapshots: vec!["db@old".into()],
        };
        assert_eq!(
            describe(&view),
            "damaged: group ab (and 1 more)\n  touches web@one\n  touches web@two\ndamaged: pack cd\n  touches no \
             snapshot\nolder: the memory of db@old was written by an older version and can't be read\nDAMAGED: 3 memory \
             images, 1 pack, 80 objects, 5.0 MiB read"
        );
    }
}
