//! Options that every command takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use crate::quantity::parse_duration;

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
    /// How long to wait for a VM that another command holds: 30s, 10m [default: 300ms]
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Say on standard error what is done; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Answer yes to every question
    // Taken everywhere, so that a script need not know which commands ask; the help of those shows it (`confirm::yes`).
    #[arg(short, long, global = true, hide = true)]
    pub(crate) yes: bool,
}
