//! The command `vmrewind`: restore points for QEMU virtual machines.
//!
//! ```text
//!  main -> arguments (clap) -> commands/* -> engine
//!            |                    |-> output/    text for people, one JSON document for programs
//!            |                    '-> progress   a bar, JSON lines, or nothing
//!            '-> command_error: exit status and what is printed of a failure
//! ```
//! The guard of a pause is the same binary: it is dispatched first, before anything is parsed or opened.

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

use vmrewind_engine::{Helper, PageServer};

use crate::arguments::Arguments;
use crate::command_error::{ErrorPrinter, exit_code};
use crate::session::Session;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == vmrewind_engine::GUARD_COMMAND) {
        return guard_a_pause(&words);
    }
    if words.get(1).is_some_and(|word| word == vmrewind_engine::PAGES_COMMAND) {
        return serve_pages(&words);
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

/// Gives a restored guest its memory; nobody reads what it prints.
fn serve_pages(words: &[OsString]) -> ExitCode {
    name_process("vmr-pages");
    let text = |at: usize| words.get(at).and_then(|word| word.to_str()).map(str::to_owned);
    let (Some(role), Some(root), Some(vm), Some(seat)) =
        (text(2), words.get(3).map(PathBuf::from), text(4), text(5))
    else {
        return ExitCode::from(2);
    };
    let Ok(program) = Helper::this_program() else { return ExitCode::FAILURE };
    let server = PageServer { role, root, vm, seat, program, steps: host::steps() };
    match vmrewind_engine::serve_pages(server) {
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
