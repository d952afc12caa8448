//! `vmrewind man`: the manual pages, one per command.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vmrewind_engine::Error;

use crate::command_error::CommandError;
use crate::output::human::count;
use crate::session::{Session, shown};

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
There is a page for each command; one that is there already is replaced.

Examples:
  vmrewind man /usr/local/share/man/man1 && man vmrewind-snapshot-create")]
pub(crate) struct ManArguments {
    /// The folder, made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Serialize)]
struct Written {
    folder: String,
    pages: Vec<String>,
}

/// Writes the pages; a page that exists is replaced.
///
/// # Errors
/// `Failed` where the folder can't be written.
pub(crate) fn run(
    session: &Session,
    arguments: &ManArguments,
    definition: clap::Command,
) -> Result<(), CommandError> {
    let pages = write(&arguments.folder, definition).map_err(|error| {
        Error::failed(format!("cannot write manual pages to '{}'", arguments.folder.display())).because(error)
    })?;
    let written = Written { folder: shown(&arguments.folder), pages };
    session
        .output
        .result(&written, || format!("{} in '{}'", count(written.pages.len(), "page"), written.folder))?;
    Ok(())
}

fn write(folder: &std::path::Path, definition: clap::Command) -> std::io::Result<Vec<String>> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(definition, folder)?;
    let mut pages: Vec<String> = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("vmrewind"))
        .collect();
    pages.sort();
    Ok(pages)
}
