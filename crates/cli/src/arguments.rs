//! The command line: global options, nouns and verbs. Each verb's own arguments stand in its file in `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::commands::{check, completions, doctor, gc, guard, man, snapshot, usage, vm};

/// Restore points for QEMU virtual machines.
///
/// vmrewind records a running VM's disks, memory and hardware configuration at one instant, with a pause of
/// milliseconds, as a read-only snapshot, and brings it back.
#[derive(Debug, Parser)]
#[command(
    name = "vmrewind",
    version,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "\
Examples:
  vmrewind vm create web -- qemu-system-x86_64 -m 2G -drive file=web.qcow2,if=virtio
  vmrewind vm start web
  vmrewind snapshot create web before-upgrade -m 'clean system'
  vmrewind snapshot restore web@before-upgrade
  vmrewind snapshot list web --tree

Exit status: 0 done; 1 failed, nothing changed; 2 usage; 3 partly done; 4 no such VM or snapshot; \
5 refused; 6 busy; 7 damaged data found; 130 interrupted."
)]
pub(crate) struct Arguments {
    /// What is said everywhere.
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    /// What is to be done.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes, at any place.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Folder of all VMs and snapshots (or set VMREWIND_ROOT) [default: /var/lib/vmrewind for root, else
    /// ~/.local/share/vmrewind]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say on standard error what is done; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Answer yes to every question
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
}

/// The nouns, and the commands that have none.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, start, stop and look at VMs
    #[command(subcommand, arg_required_else_help = true)]
    Vm(vm::VmCommand),
    /// Create, restore and look at snapshots
    #[command(subcommand, visible_alias = "snap", arg_required_else_help = true)]
    Snapshot(snapshot::SnapshotCommand),
    /// Run a command on the host; bring the VM back if it fails
    Guard(guard::GuardArguments),
    /// Free what no snapshot needs any more
    Gc(gc::GcArguments),
    /// Look for damage in the store, and tell which snapshots it touches
    Check(check::CheckArguments),
    /// Show what VMs and snapshots take, alone and together
    Usage(usage::UsageArguments),
    /// Check that this host has what vmrewind needs
    Doctor(doctor::DoctorArguments),
    /// Print the completion script of a shell
    #[command(hide = true)]
    Completions(completions::CompletionsArguments),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(man::ManArguments),
}

impl Arguments {
    /// Parses the words of the command line, the program's name first.
    pub(crate) fn parse_words(words: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(words)
    }

    /// The definition, for completions and manual pages.
    pub(crate) fn definition() -> clap::Command {
        <Self as CommandFactory>::command()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// clap checks its definitions only when they are used: contradictions must not wait for a user.
    #[test]
    fn the_definition_is_sound() {
        Arguments::definition().debug_assert();
    }

    /// "Everywhere" means before the noun, between noun and verb, and after the verb.
    #[test]
    fn global_options_stand_anywhere() {
        for line in ["--json vm list", "vm --json list", "vm list --json"] {
            let words: Vec<OsString> =
                ["vmrewind"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            assert!(Arguments::parse_words(&words).unwrap().global.json, "{line}");
        }
    }

    /// An option after `--` is QEMU's and never ours.
    #[test]
    fn options_of_qemu_stay_its_own() {
        let words = ["vmrewind", "vm", "create", "web", "--", "qemu", "--json", "-y"].map(OsString::from);
        let arguments = Arguments::parse_words(&words).unwrap();
        assert!(!arguments.global.json && !arguments.global.yes);
    }
}
