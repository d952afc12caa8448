//! `vmrewind completions`: the completion script of a shell.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::command_error::CommandError;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vmrewind completions bash > ~/.local/share/bash-completion/completions/vmrewind
  vmrewind completions fish > ~/.config/fish/completions/vmrewind.fish
  vmrewind completions zsh > DIR/_vmrewind      DIR is one of your $fpath")]
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
