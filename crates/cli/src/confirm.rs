//! What would be destroyed: shown, asked about, and reported.
//!
//! `-y` answers yes. Without a terminal there is nobody to ask: then the command is refused, and nothing is done.

use std::io::{self, IsTerminal, Read, Write};

use clap::{Arg, ArgAction};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use vmrewind_engine::{Error, Result};

use crate::command_error::CommandError;
use crate::session::Session;

/// How often a waiting question looks whether the user wants to stop.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The JSON of what can be shown before it is done: its plan, and whether it was carried out.
#[derive(Serialize)]
pub(crate) struct Planned<'a, P> {
    /// Whether nothing was done.
    pub(crate) dry_run: bool,
    /// What is, or was, to be done.
    #[serde(flatten)]
    pub(crate) plan: &'a P,
}

/// The global option `-y` once more, for the help of a command that asks.
pub(crate) fn yes() -> Arg {
    Arg::new("yes").short('y').long("yes").action(ArgAction::SetTrue).help("Delete without asking")
}

/// Shows `plan` and asks `question`; returns only when the answer is yes.
///
/// # Errors
/// `Refused` where nobody can be asked, `Failed` where the answer is no, `Interrupted`.
pub(crate) fn confirm(session: &Session, plan: &str, question: &str) -> Result<(), CommandError> {
    if session.yes {
        return Ok(());
    }
    if session.output.is_json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CommandError::advised(
            Error::refused(format!("not done without being confirmed: {question}")),
            "add -y to confirm, or --dry-run to see what would be done",
        ));
    }
    let _ = write!(io::stderr(), "{plan}\n{question} [y/N] ");
    let answer = read_line(session)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::failed("not confirmed: nothing was done").into()),
    }
}

/// Reads a line from the terminal, waking up for the user's signals.
fn read_line(session: &Session) -> Result<String> {
    let cannot = |error: io::Error| Error::failed("cannot read the answer").because(error);
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        session.cancel.check("waiting for an answer")?;
        let waited = poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], Some(&LOOK_EVERY));
        match waited {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(cannot(error.into())),
        }
        // A terminal gives whole lines, and the buffer takes more than one.
        let mut chunk = [0_u8; 256];
        let count = stdin.read(&mut chunk).map_err(cannot)?;
        line.extend_from_slice(&chunk[..count]);
        if count == 0 || line.contains(&b'\n') {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
    }
}
