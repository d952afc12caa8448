//! `vmrewind completions`: the completion script of a shell, for packages.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::command_error::CommandError;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Where standard output takes no more.
pub(crate) fn run(
    arguments: &CompletionsArguments,
    mut definition: clap::Command,
) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut definition, "vmrewind", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
