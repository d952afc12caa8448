//! The command `vmrewind`: restore points for QEMU virtual machines.
//!
//! ```text
//!  main -> arguments (clap) -> commands/* -> engine
//!            |                    |-> output/    text for people, one JSON document for programs
//!            |                    '-> progress   a bar, JSON lines, or nothing
//!            '-> command_error: exit status and what is printed of a failure
//! ```
//! The guard of a pause and what works in the background are the same binary: they are dispatched first, before anything is
//! parsed or opened.

mod arguments;
mod command_error;
mod commands;
mod confirm;
mod global;
mod host;
mod output;
mod progress;
mod quantity;
mod session;
mod signals;
mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vmrewind_engine::{BackgroundProcess, Helper};

use crate::arguments::Arguments;
use crate::command_error::{ErrorPrinter, exit_code};
use crate::session::Session;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == vmrewind_engine::GUARD_COMMAND) {
        return guard_a_pause(&words);
    }
    if words.get(1).is_some_and(|word| word == vmrewind_engine::BACKGROUND_COMMAND) {
        return work_in_background(&words);
    }
    if words.get(1).is_some_and(|word| word == vmrewind_engine::CLOSE_COMMAND) {
        return ExitCode::SUCCESS;
    }
    match Arguments::parse_words(&words) {
        Ok(arguments) => run(arguments, Arguments::command_words(&words)),
        Err(problem) => command_error::report_usage(&problem, &words),
    }
}

fn run(arguments: Arguments, what: String) -> ExitCode {
    let printer = ErrorPrinter { json: arguments.global.json };
    let done = Session::start(arguments.global, what).and_then(|session| {
        let done = commands::run(&session, arguments.command, Arguments::definition);
        session.output.print_times();
        done
    });
    match done {
        Ok(status) => status,
        Err(error) => {
            printer.print(&error);
            exit_code(&error)
        }
    }
}

/// Does what goes on when its command has ended; nobody reads what it prints.
fn work_in_background(words: &[OsString]) -> ExitCode {
    let text = |at: usize| words.get(at).and_then(|word| word.to_str()).map(str::to_owned);
    let (Some(kind), Some(role), Some(root), Some(vm), Some(seat)) =
        (text(2), text(3), words.get(4).map(PathBuf::from), text(5), text(6))
    else {
        return ExitCode::from(2);
    };
    name_process(&format!("vmr-{kind}"));
    let Ok(program) = Helper::this_program() else { return ExitCode::FAILURE };
    let process = BackgroundProcess { kind, role, root, vm, seat, program, steps: host::steps() };
    match vmrewind_engine::work_in_background(process) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Watches over a pause for another vmrewind; nobody reads what it prints.
fn guard_a_pause(words: &[OsString]) -> ExitCode {
    name_process("vmr-guard");
    let (Some(folder), Some(seat)) = (words.get(2), words.get(3).and_then(|seat| seat.to_str())) else {
        return ExitCode::from(2);
    };
    match vmrewind_engine::watch_pause(Path::new(folder), seat) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What `top` and `ps -o comm` show: a helper is started by its descriptor, whose number would be its name.
fn name_process(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        // Only a name.
        let _ = rustix::thread::set_name(&name);
    }
}
