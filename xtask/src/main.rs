//! What `./x` runs once everything is installed: tests, checks, the demonstration, measurements.
//!
//! One file per command. Every command prints the programs it runs, and ends with exit status 0 or 1.

// A program for developers, whose output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod checks;
mod demo;
mod fuzz;
mod steps;
mod suite;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::steps::{Outcome, cargo};

/// The developer's tools of vmrewind.
#[derive(Parser)]
#[command(bin_name = "x")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Capture a running guest, damage it, bring it back.
    Demo,
    /// All that a change must pass; with arguments, only those tests (they go to the test runner).
    Test {
        /// What takes many minutes too: fuzzing, more random cases, and each bench as a smoke run.
        #[arg(long)]
        long: bool,
        /// Filters and options for `cargo nextest run`, or `cargo test` where there is no nextest.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        runner: Vec<String>,
    },
    /// The same as `test` without arguments.
    Ci,
    /// Measure vmrewind beside QEMU's own ways.
    Bench {
        /// Scenario and options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        scenario: Vec<String>,
    },
    /// Check the rules of this repository that no compiler knows.
    Tidy,
    /// Check libraries, licences and sources against deny.toml.
    Deny,
    /// Check that the oldest Rust named in Cargo.toml will do.
    Msrv,
    /// Check the code for 64-bit ARM.
    Arm,
    /// Fuzz the decoders.
    Fuzz {
        /// One target; without, each in turn.
        target: Option<String>,
        /// How long each is fuzzed.
        #[arg(long, default_value_t = suite::FUZZ_SECONDS)]
        seconds: u32,
    },
    /// Format all code.
    Fmt,
    /// Lint all code.
    Lint,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("x: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Demo => demo::run(),
        Command::Test { runner, .. } if !runner.is_empty() => suite::tests(&runner),
        Command::Test { long: true, .. } => suite::long(),
        Command::Test { .. } | Command::Ci => suite::everything(),
        Command::Bench { scenario } => {
            let scenario = scenario.iter().map(String::as_str);
            cargo(["run", "--release", "--package", "vmrewind-bench", "--"].into_iter().chain(scenario))
        }
        Command::Tidy => tidy::run(),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Deny => checks::deny::run(),
        Command::Msrv => checks::msrv::run(),
        Command::Arm => checks::arm::run(),
        Command::Fmt => cargo(["fmt", "--all"]),
        Command::Lint => suite::lint(),
    }
}
