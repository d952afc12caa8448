//! The commands, one file each: arguments, what the engine is asked, and how the result is shown.

pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod gc;
pub(crate) mod guard;
pub(crate) mod man;
pub(crate) mod snapshot;
pub(crate) mod usage;
pub(crate) mod vm;

use std::process::ExitCode;

use serde::Serialize;

use crate::arguments::Command;
use crate::command_error::CommandError;
use crate::session::Session;

/// Carries a command out, and gives the exit status.
///
/// # Errors
/// Why it failed, or why its result could not be printed.
pub(crate) fn run(session: &Session, command: Command) -> Result<ExitCode, CommandError> {
    match command {
        // Its status is that of the command it ran.
        Command::Guard(arguments) => return guard::run(session, arguments),
        Command::Vm(command) => vm::run(session, command),
        Command::Snapshot(command) => snapshot::run(session, command),
        Command::Gc(arguments) => gc::run(session, &arguments),
        Command::Check(arguments) => check::run(session, &arguments),
        Command::Usage(arguments) => usage::run(session, &arguments),
        Command::Doctor(arguments) => doctor::run(session, &arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(session, &arguments),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// The JSON of a deletion: its plan, and whether it was carried out.
#[derive(Serialize)]
struct Deletion<'a, P> {
    dry_run: bool,
    #[serde(flatten)]
    plan: &'a P,
}
