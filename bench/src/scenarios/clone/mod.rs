//! How long many clones of one VM take until all of them tick, and what memory each costs.
//!
//! A guest is captured, and ended. For each number of clones:
//!
//! - **vmrewind, first**: `vm clone --count N --start`, where no clone of the snapshot lives: the flat image that all share
//!   is made;
//! - **vmrewind, again**: the same beside one clone that rests: the image is there;
//! - **QEMU, eager**: as many QEMUs started at once, each filled from one file of its own `migrate`, as one would do without
//!   vmrewind.
//!
//! Measured are the time from the command until the last of them has ticked, and the proportional set size (PSS) of each
//! QEMU some seconds later, when all still tick: memory that several share is divided among them.

mod eager;
mod ours;
mod sample;
mod text;

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use vmrewind_testkit::console::{Console, Mark};
use vmrewind_testkit::guest::GuestOptions;

use self::eager::EagerGuests;
use self::ours::Parent;
use self::sample::{Clones, Sample};
use crate::cache::{sync, touch_memory};
use crate::outcome::{Outcome, context};
use crate::vm::{ANSWER, filled_guest};

pub(crate) use self::text::markdown;

/// How long all tick before their memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);
/// Most memory that is used and freed before a turn.
const MAX_TOUCHED_BYTES: u64 = 8 << 30;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// RAM of the guest, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(192..))]
    memory: u32,
    /// Numbers of clones
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 10, 30],
          value_parser = clap::value_parser!(u32).range(1..))]
    counts: Vec<u32>,
    /// Rounds for each number
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A smoke run: 256 MiB, one and three clones, one round
    #[arg(long, conflicts_with_all = ["memory", "counts", "rounds"])]
    quick: bool,
}

impl Options {
    fn resolved(&self) -> Self {
        if self.quick {
            Self { memory: 256, counts: vec![1, 3], rounds: 1, quick: true }
        } else {
            self.clone()
        }
    }
}

/// Measures all numbers, below a folder of its own in `dir` that is removed at the end.
///
/// # Errors
/// Where a guest or a way fails, or a guest finds its memory wrong.
pub(crate) fn run(options: &Options, program: &Path, dir: &Path) -> Outcome<Vec<Clones>> {
    let options = options.resolved();
    // The path of a socket has at most 107 bytes: the name is short.
    let folder = tempfile::Builder::new().prefix("vmrewind-bench.").tempdir_in(dir)?;
    let guest = guest_options(options.memory);
    println!("{} MiB: booting two guests ...", options.memory);
    let parent = Parent::make(&guest, program, &folder.path().join("ours"))?;
    let eager = EagerGuests::make(&guest, &folder.path().join("theirs"))?;
    let mut all = Vec::new();
    for &count in &options.counts {
        let doing = || format!("cannot measure {count} clones");
        let samples = measure(&options, count, &parent, &eager, folder.path()).map_err(context(doing))?;
        let clones = Clones { memory_mib: options.memory, count, rounds: options.rounds, samples };
        println!("{}", text::clones(&clones));
        all.push(clones);
    }
    parent.delete()?;
    Ok(all)
}

fn measure(
    options: &Options,
    count: u32,
    parent: &Parent,
    eager: &EagerGuests,
    folder: &Path,
) -> Outcome<Vec<Sample>> {
    let mut samples = Vec::new();
    // What the eager guests need: nobody pays for getting it from the machine's host.
    let memory_bytes = (u64::from(options.memory) << 20) * u64::from(count);
    let prepare = || sync(folder).and_then(|()| touch_memory(memory_bytes.min(MAX_TOUCHED_BYTES)));
    for round in 1..=options.rounds {
        for beside_another in [false, true] {
            prepare()?;
            let sample = parent.clones(count, round, beside_another)?;
            println!("  round {round}: {}", text::sample(&sample));
            samples.push(sample);
        }
        prepare()?;
        let sample = eager.restore(count, round)?;
        println!("  round {round}: {}", text::sample(&sample));
        samples.push(sample);
    }
    Ok(samples)
}

/// Waits until each console has had a tick; gives the time of the last of the first ones, and the highest number.
fn all_tick(consoles: &[Console]) -> Outcome<(Instant, u64)> {
    let mut last: Option<Instant> = None;
    let mut highest = 0;
    for console in consoles {
        console.wait_tick(Mark::START, ANSWER)?;
        let (at, tick) = console.ticks().first().copied().ok_or("a guest's first tick is lost")?;
        last = last.max(Some(at));
        highest = highest.max(tick.tick);
    }
    Ok((last.ok_or("there is no guest")?, highest))
}

/// The PSS of each process, in bytes, once all have ticked for a while; they tick afterwards too.
fn settled_memory(consoles: &[Console], pids: &[u32]) -> Outcome<Vec<u64>> {
    std::thread::sleep(SETTLE);
    let bytes = pids.iter().map(|pid| pss_bytes(*pid)).collect::<Outcome<Vec<_>>>()?;
    for console in consoles {
        console.wait_tick(console.mark(), ANSWER)?;
    }
    Ok(bytes)
}

/// `Pss:` of `/proc/PID/smaps_rollup`, as in the kernel's Documentation/filesystems/proc.rst.
fn pss_bytes(pid: u32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).map_err(context(|| format!("cannot read {path}")))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("it has no Pss")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes << 10)
}

fn guest_options(memory_mib: u32) -> GuestOptions {
    GuestOptions { dirty_mib: 8, dirty_hz: 200, tick_ms: 20, ..filled_guest(memory_mib) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figure of memory: it is read for a process that lives, and no other.
    #[test]
    fn the_proportional_set_size_is_read_from_the_kernel() {
        assert!(pss_bytes(std::process::id()).unwrap() > 16 << 10);
        assert!(pss_bytes(u32::MAX).is_err());
    }
}
