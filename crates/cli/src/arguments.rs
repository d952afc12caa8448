//! The command line as a whole: global options, then a command of `commands/`.
//!
//! Nothing below `main` knows this file: what every command needs of it stands in `global`.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

use crate::commands::Command;
use crate::global::GlobalOptions;

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

impl Arguments {
    /// Parses the words of the command line, the program's name first.
    pub(crate) fn parse_words(words: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(words)
    }

    /// The words that say which command it is, without options and names: `snapshot create`.
    pub(crate) fn command_words(words: &[OsString]) -> String {
        let mut command = &Self::definition();
        let mut names = Vec::new();
        for word in words.iter().skip(1) {
            if let Some(found) = command.find_subcommand(word) {
                names.push(found.get_name());
                command = found;
            }
        }
        names.join(" ")
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

    /// A script can say `-y` to every command; the help of those that ask shows it, of no other.
    #[test]
    fn yes_is_taken_everywhere_and_shown_where_something_is_asked() {
        for line in [
            "-y vm list",
            "vm list -y",
            "-y vm delete web",
            "vm -y delete web",
            "snapshot delete web@one --yes",
        ] {
            let words = ["vmrewind"].into_iter().chain(line.split(' ')).map(OsString::from);
            assert!(Arguments::parse_words(&words.collect::<Vec<_>>()).unwrap().global.yes, "{line}");
        }
        let mut definition = Arguments::definition();
        definition.build();
        for noun in definition.get_subcommands_mut() {
            for verb in noun.get_subcommands_mut() {
                let asks = verb.get_name() == "delete";
                assert_eq!(verb.render_help().to_string().contains("--yes"), asks, "{}", verb.get_name());
            }
            assert!(!noun.render_help().to_string().contains("--yes"), "{}", noun.get_name());
        }
    }

    /// Others are told by these words what a VM is busy with: not by an alias, nor by a name that is a command's, too.
    #[test]
    fn the_command_s_words() {
        for (line, expected) in [
            ("--root vms snap create vm", "snapshot create"),
            ("vm start snapshot", "vm start"),
            ("gc --json", "gc"),
        ] {
            let words: Vec<OsString> =
                ["vmrewind"].into_iter().chain(line.split(' ')).map(Into::into).collect();
            assert_eq!(Arguments::command_words(&words), expected);
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
