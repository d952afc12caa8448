//! Benchmarks: vmrewind beside what people would use instead, on the same guest in the same run, given as ratios.
//!
//! ```text
//!  main -> scenarios/*            set guests up, measure in rounds, judge the figures
//!            |-> program, vm      the command `vmrewind`, as a user runs it: never the engine's internals
//!            |-> desktop, cache   the content of a guest's memory; the page cache, warm or cold
//!            |-> stats            median, least, most
//!            '-> report           tables, the machine, bench/RESULTS.md
//! ```
//! A figure that misses what is expected of it is printed as missed; the exit status tells only whether measuring
//! worked.

// A program for developers, whose output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cache;
mod desktop;
mod machine;
mod outcome;
mod program;
mod report;
mod scenarios;
mod stats;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::machine::Machine;
use crate::outcome::{Outcome, context};
use crate::program::built_program;
use crate::report::results_file;
use crate::scenarios::{builds, capture, clone, restore, store};

/// Measures vmrewind beside QEMU's own ways.
#[derive(Parser)]
#[command(bin_name = "x bench")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// What people do with a VM that runs, by this build and another one beside it, and where the time goes.
    Builds {
        #[command(flatten)]
        options: builds::Options,
        #[command(flatten)]
        stage: Stage,
    },
    /// How long a running guest stands still for a snapshot with memory, and how long the snapshot takes.
    Capture {
        #[command(flatten)]
        options: capture::Options,
        #[command(flatten)]
        stage: Stage,
    },
    /// How long many clones of one VM take until all of them tick, and what memory each costs.
    Clone {
        #[command(flatten)]
        options: clone::Options,
        #[command(flatten)]
        stage: Stage,
    },
    /// How long a VM takes from the start of its QEMU until its guest goes on.
    Restore {
        #[command(flatten)]
        options: restore::Options,
        #[command(flatten)]
        stage: Stage,
    },
    /// What the store costs in time and bytes, on a desktop's memory and its later generations.
    Store {
        #[command(flatten)]
        options: store::Options,
        #[command(flatten)]
        stage: Stage,
    },
}

/// What all scenarios take.
#[derive(Args)]
struct Stage {
    /// Folder on the file system to measure on [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The program to measure [default: a release build of this tree]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Write all samples to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result to bench/RESULTS.md
    #[arg(long, requires = "date")]
    record: bool,
    /// Today's date, for the record
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().scenario) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", outcome::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(scenario: Scenario) -> Outcome {
    match scenario {
        Scenario::Builds { options, stage } => {
            stage.measure("builds", builds::markdown, |program, dir| builds::run(&options, program, dir))
        }
        Scenario::Capture { options, stage } => {
            stage.measure("capture", capture::markdown, |program, dir| capture::run(&options, program, dir))
        }
        Scenario::Clone { options, stage } => {
            stage.measure("clone", clone::markdown, |program, dir| clone::run(&options, program, dir))
        }
        Scenario::Restore { options, stage } => {
            stage.measure("restore", restore::markdown, |program, dir| restore::run(&options, program, dir))
        }
        Scenario::Store { options, stage } => {
            stage.measure("store", store::markdown, |program, dir| store::run(&options, program, dir))
        }
    }
}

impl Stage {
    /// Measures a scenario, and keeps its results where they are wanted.
    fn measure<R: Serialize>(
        &self,
        title: &'static str,
        markdown: impl FnOnce(&[R]) -> String,
        scenario: impl FnOnce(&Path, &Path) -> Outcome<Vec<R>>,
    ) -> Outcome {
        let program = self.program.clone().map_or_else(built_program, Ok)?;
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let machine = Machine::look(&dir)?;
        println!("{machine}\n");
        let results = scenario(&program, &dir)?;
        if let Some(file) = &self.json {
            let document =
                json!({ "scenario": title, "date": self.date, "machine": machine, "results": results });
            std::fs::write(file, format!("{document:#}\n"))
                .map_err(context(|| format!("cannot write '{}'", file.display())))?;
        }
        if let (true, Some(date)) = (self.record, &self.date) {
            let section = report::Section {
                title,
                date,
                command: format!("./x bench {}", report::arguments_as_typed(std::env::args().skip(1))),
                machine: machine.to_string(),
                body: markdown(&results),
            };
            println!("recorded in {}", results_file::record(&section)?.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Guards the options against contradictions that clap finds only when they are used.
    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("x capture --sizes 256,512 --rounds 1").is_ok());
        assert!(parse("x capture --record").is_err(), "a record without a date");
        assert!(parse("x capture --rounds 0").is_err());
        assert!(parse("x capture --sizes 64").is_err(), "no guest boots in so little");
        assert!(parse("x store --quick").is_ok());
        assert!(parse("x store --quick --generations 4").is_err(), "quick says how many");
    }
}
