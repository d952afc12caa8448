//! What people do with a VM that runs, by this build of vmrewind and by another one beside it: whether a change made
//! anything slower, and where the time of each command goes.
//!
//! Each build has a guest of the same content of its own, one of which always rests. In each round each build takes its
//! turn, the order changing from round to round. A turn: a part of the memory is changed; a snapshot is taken of the running
//! guest; the first snapshot is brought back in place of the running guest, then in place of none, lazily and eagerly; a
//! clone of it is started. What counts is the time from the start of the command to its end, for a capture, and else to the
//! first tick of the guest. Files are in the page cache.

mod sample;
mod text;
mod turn;

use std::path::{Path, PathBuf};

use clap::Args;

use self::sample::{Build, Sample, Size};
use self::turn::Contestant;
use crate::outcome::{Outcome, context};

pub(crate) use self::text::markdown;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Another build of vmrewind, as the program's file
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Sizes of guests, in MiB of RAM
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [512, 2048],
          value_parser = clap::value_parser!(u32).range(192..))]
    sizes: Vec<u32>,
    /// Rounds per size
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Measures all sizes, below a folder of its own in `dir` that is removed at the end.
///
/// # Errors
/// Where a guest or a command fails, or a guest finds its memory wrong afterwards. No figures then: they would lie.
pub(crate) fn run(options: &Options, program: &Path, dir: &Path) -> Outcome<Vec<Size>> {
    let mut all = Vec::new();
    for &memory_mib in &options.sizes {
        let doing = || format!("cannot measure guests of {memory_mib} MiB");
        // The path of a socket has at most 107 bytes: the name is short.
        let folder = tempfile::Builder::new().prefix("vmrewind-bench.").tempdir_in(dir)?;
        let size = measure(options, memory_mib, program, folder.path()).map_err(context(doing))?;
        println!("{}", text::size(&size));
        all.push(size);
    }
    Ok(all)
}

fn measure(options: &Options, memory_mib: u32, program: &Path, folder: &Path) -> Outcome<Size> {
    println!("{memory_mib} MiB: booting a guest for each build ...");
    let mut contestants = Vec::new();
    for (build, program) in
        options.before.iter().map(|path| (Build::Before, path.as_path())).chain([(Build::This, program)])
    {
        contestants.push(Contestant::make(build, memory_mib, program, folder)?);
    }
    let mut samples: Vec<Sample> = Vec::new();
    for round in 1..=options.rounds {
        let first = usize::try_from(round - 1)? % contestants.len();
        contestants.rotate_left(first);
        for contestant in &contestants {
            for sample in contestant.turn(round)? {
                println!("  round {round}: {}", text::sample(&sample));
                samples.push(sample);
            }
        }
    }
    for contestant in contestants {
        contestant.end()?;
    }
    Ok(Size { memory_mib, rounds: options.rounds, samples })
}
