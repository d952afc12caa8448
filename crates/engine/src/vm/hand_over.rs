//! What a new QEMU gets from the one whose place it has taken: ports, a display, the names of sockets and files, a pid file.
//!
//! All of it can be done twice: a command that was killed on the way is completed by the next. Nothing of it is worth a
//! failure, for the guest runs; what could not be handed over is told.

use std::path::Path;

use vmrewind_qemu::cmdline::Later;
use vmrewind_qemu::qmp::commands::DisplayUpdate;

use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::vm::machine::{Machine, Use};

/// What could not be handed over.
pub(crate) struct Missed {
    /// What, as a person would name it.
    pub(crate) what: String,
    /// Why.
    pub(crate) error: Error,
}

/// Hands over what QEMU listens on, while the old one may still live.
pub(crate) fn ports(old: Option<&dyn Machine>, new: &dyn Machine, later: &[Later]) -> Vec<Missed> {
    let is_port = |one: &&Later| matches!(one, Later::Forward { .. } | Later::Vnc { .. });
    let mut wanted = later.iter().filter(is_port).peekable();
    if wanted.peek().is_none() {
        return Vec::new();
    }
    // One that has ended, or does not answer, is ended next, and has nothing then.
    let from = old.and_then(|old| old.channel_briefly(Use::Operation).ok());
    let to = new.channel(Use::Operation);
    let mut missed = Vec::new();
    for one in wanted {
        if let Some(from) = &from
            && let Err(error) = give_up(from, one)
        {
            tracing::info!("the old QEMU keeps {one:?}: {}", error.in_one_line());
        }
        let taken = match &to {
            Ok(to) => take(to, one),
            Err(error) => Err(Error::failed(error.to_string())),
        };
        missed.extend(taken.err().map(|error| Missed { what: name(one), error }));
    }
    missed
}

/// Hands over what is in files, once the old QEMU is gone: it removes them when it ends.
pub(crate) fn files(working_dir: &Path, new: Option<u32>, later: &[Later]) -> Vec<Missed> {
    let mut missed = Vec::new();
    for one in later {
        let done = match one {
            Later::Rename { from, to } => rename(&working_dir.join(from), &working_dir.join(to)),
            Later::PidFile { path } => {
                let pid = new.map(|pid| format!("{pid}\n")).unwrap_or_default();
                std::fs::write(working_dir.join(path), pid).context(|| format!("cannot write '{path}'"))
            }
            Later::Forward { .. } | Later::Vnc { .. } => continue,
        };
        missed.extend(done.err().map(|error| Missed { what: name(one), error }));
    }
    missed
}

/// Removes what was made beside another QEMU for one that did not take its place.
pub(crate) fn discard(working_dir: &Path, later: &[Later]) {
    for one in later {
        if let Later::Rename { from, .. } = one {
            let _ = std::fs::remove_file(working_dir.join(from));
        }
    }
}

fn give_up(old: &Monitor, one: &Later) -> Result<()> {
    match one {
        Later::Forward { network, rule } => {
            // All of a rule that names the host's side.
            let host = rule.split('-').next().unwrap_or(rule);
            old.human(&format!("hostfwd_remove {}{host}", prefix(network.as_deref()))).map(drop)
        }
        Later::Vnc { .. } => old.set_vnc(&DisplayUpdate::vnc_off()),
        Later::Rename { .. } | Later::PidFile { .. } => Ok(()),
    }
}

fn take(new: &Monitor, one: &Later) -> Result<()> {
    match one {
        Later::Forward { network, rule } => {
            let said = new.human(&format!("hostfwd_add {}{rule}", prefix(network.as_deref())))?;
            if said.trim().is_empty() || forwards(new, rule)? {
                return Ok(());
            }
            Err(Error::failed(said.trim().to_owned()))
        }
        Later::Vnc { host, port, last_port } => {
            let on = |port| new.set_vnc(&DisplayUpdate::vnc_on(host, port));
            let mut tried = on(*port);
            let mut next = port + 1;
            while tried.is_err() && next <= *last_port {
                tried = on(next);
                next += 1;
            }
            tried
        }
        Later::Rename { .. } | Later::PidFile { .. } => Ok(()),
    }
}

/// Whether QEMU forwards the port of a rule already.
fn forwards(new: &Monitor, rule: &str) -> Result<bool> {
    let port = rule.split('-').next().and_then(|host| host.rsplit(':').next()).unwrap_or_default();
    let table = new.human("info usernet")?;
    let is_it =
        |line: &str| line.contains("HOST_FORWARD") && line.split_whitespace().any(|word| word == port);
    Ok(table.lines().any(is_it))
}

fn prefix(network: Option<&str>) -> String {
    network.map(|network| format!("{network} ")).unwrap_or_default()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        // Done already, by a command that was killed after it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && to.exists() => Ok(()),
        renamed => renamed.context(|| format!("cannot rename '{}' to '{}'", from.display(), to.display())),
    }
}

fn name(one: &Later) -> String {
    match one {
        Later::Rename { to, .. } => to.clone(),
        Later::PidFile { path } => path.clone(),
        Later::Forward { rule, .. } => format!("hostfwd={rule}"),
        Later::Vnc { host, port, .. } => format!("VNC on {host}:{port}"),
    }
}
