//! How long a VM takes from the start of its QEMU until its guest ticks again, and how it goes on.
//!
//! For each size a guest is taken through generations under vmrewind, a part of its memory changed between two, and is
//! brought back to the last one; another guest of the same content is kept by QEMU's own ways and brought back by them.
//! Before each turn no QEMU runs. What counts:
//!
//! - **QEMU to tick**: from the start of the QEMU process to the guest's first tick. vmrewind starts QEMU itself: its log
//!   is made right before, and tells when. The kernel stamps files by its own ticks, up to 10 ms early, so that this
//!   counts against vmrewind;
//! - **command to tick**: from the start of `vmrewind snapshot restore`. Who uses QEMU's own ways starts QEMU;
//! - **longest stall**: the longest time between two ticks in the ten seconds after the first one: the price of running
//!   before the memory is there.
//!
//! With a **warm** page cache the files of the way were read right before; with a **cold** one they were forgotten.

mod plain;
mod rewind;
mod sample;
mod text;

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use vmrewind_testkit::console::Console;
use vmrewind_testkit::guest::GuestOptions;

use self::plain::PlainGuest;
use self::rewind::{Generations, OurWay};
use self::sample::{Cache, Sample, Size};
use crate::cache::{Cold, forget, touch_memory, warm};
use crate::outcome::{Outcome, context};
use crate::vm::{ANSWER, filled_guest};

pub(crate) use self::text::markdown;

/// For how long a guest is watched after its first tick.
const WATCH: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Sizes of guests, in MiB of RAM
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [512, 2048, 4096],
          value_parser = clap::value_parser!(u32).range(192..))]
    sizes: Vec<u32>,
    /// Generations in the store
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    generations: u32,
    /// Rounds per size and state of the page cache
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A smoke run: 512 MiB, two generations, one round
    #[arg(long, conflicts_with_all = ["sizes", "generations", "rounds"])]
    quick: bool,
}

impl Options {
    fn resolved(&self) -> Self {
        if self.quick {
            Self { sizes: vec![512], generations: 2, rounds: 1, quick: true }
        } else {
            self.clone()
        }
    }
}

/// A guest that was brought back: when each thing was.
pub(super) struct Arrival {
    /// The command was begun.
    pub(super) command: Instant,
    /// The QEMU process was started.
    pub(super) qemu: Instant,
    /// The guest ticked.
    pub(super) first: Instant,
}

/// Measures all sizes, below a folder of its own in `dir` that is removed at the end.
///
/// # Errors
/// Where a guest or a way fails, or finds its memory wrong afterwards. No figures then: they would lie.
pub(crate) fn run(options: &Options, program: &Path, dir: &Path) -> Outcome<Vec<Size>> {
    let options = options.resolved();
    let mut all = Vec::new();
    for &memory_mib in &options.sizes {
        let doing = || format!("cannot measure a guest of {memory_mib} MiB");
        // The path of a socket has at most 107 bytes: the name is short.
        let folder = tempfile::Builder::new().prefix("vmrewind-bench.").tempdir_in(dir)?;
        let size = measure(&options, memory_mib, program, folder.path()).map_err(context(doing))?;
        println!("{}", text::size(&size));
        all.push(size);
    }
    Ok(all)
}

fn measure(options: &Options, memory_mib: u32, program: &Path, folder: &Path) -> Outcome<Size> {
    println!("{memory_mib} MiB: {} generations under vmrewind ...", options.generations);
    let ours_folder = folder.join("ours");
    std::fs::create_dir(&ours_folder)?;
    let guest = guest_options(memory_mib);
    let mut ours = Generations::make(&guest, options.generations, program, &ours_folder)?;
    println!("{memory_mib} MiB: the same by QEMU's own ways ...");
    let theirs_folder = folder.join("theirs");
    std::fs::create_dir(&theirs_folder)?;
    let plain = PlainGuest::make(&guest, &theirs_folder)?;
    let mut size = Size {
        memory_mib,
        filled_mib: guest.fill_mib,
        generations: options.generations,
        rounds: options.rounds,
        unknown_to_qemu: plain.unknown_ways(),
        cold_by: None,
        samples: Vec::new(),
    };
    for cache in [Cache::Warm, Cache::Cold] {
        for round in 1..=options.rounds {
            // Now and then all is checked, which takes a large guest its time.
            let check = round == options.rounds;
            for way in OurWay::ALL {
                size.cold_by = prepare(cache, &ours_folder, memory_mib)?.or(size.cold_by.take());
                let (arrival, console) = ours.restore(way)?;
                let sample = watch(way.name(), cache, round, &arrival, console)?;
                ours.end(way, check)?;
                println!("  round {round}: {}", text::sample(&sample));
                size.samples.push(sample);
            }
            for &way in plain.ways() {
                plain.make_ready(way)?;
                prepare(cache, &theirs_folder, memory_mib)?;
                let (arrival, running) = plain.restore(way)?;
                let sample = watch(way.name(), cache, round, &arrival, &running.console)?;
                running.end(check)?;
                println!("  round {round}: {}", text::sample(&sample));
                size.samples.push(sample);
            }
        }
    }
    ours.delete()?;
    Ok(size)
}

/// Makes the files of a way be in the page cache, or not, and memory for a guest be there. Tells how they were made not to
/// be.
fn prepare(cache: Cache, folder: &Path, memory_mib: u32) -> Outcome<Option<String>> {
    let cold = match cache {
        Cache::Warm => warm(folder).map(|()| None),
        Cache::Cold => forget(folder).map(|how: Cold| Some(how.to_string())),
    };
    touch_memory(u64::from(memory_mib) << 20)?;
    cold
}

/// Watches a guest for a while after its first tick.
fn watch(way: &str, cache: Cache, round: u32, arrival: &Arrival, console: &Console) -> Outcome<Sample> {
    let end = arrival.first + WATCH;
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    console.wait_tick(console.mark(), ANSWER)?;
    let ticks: Vec<Instant> = console.ticks().into_iter().map(|(at, _)| at).collect();
    let milliseconds = |from: Instant| (arrival.first - from).as_secs_f64() * 1e3;
    Ok(Sample {
        way: way.into(),
        cache,
        round,
        qemu_ms: milliseconds(arrival.qemu),
        command_ms: milliseconds(arrival.command),
        stall_ms: longest_gap(&ticks, arrival.first, end).as_secs_f64() * 1e3,
    })
}

/// The longest time between two ticks of which the earlier is between `from` and `until`.
fn longest_gap(ticks: &[Instant], from: Instant, until: Instant) -> Duration {
    let gaps = ticks.windows(2).filter(|pair| pair[0] >= from && pair[0] < until);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

fn guest_options(memory_mib: u32) -> GuestOptions {
    GuestOptions { dirty_mib: 16, dirty_hz: 1000, tick_ms: 5, ..filled_guest(memory_mib) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figure against what was before the restore, and against a stall that begins in time and ends late.
    #[test]
    fn stalls_are_those_that_begin_within_the_watch() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let ticks = [at(0), at(500), at(505), at(530), at(600), at(2000)];
        assert_eq!(longest_gap(&ticks, at(500), at(540)), Duration::from_millis(70));
        assert_eq!(longest_gap(&ticks, at(500), at(700)), Duration::from_millis(1400));
        assert_eq!(longest_gap(&ticks[..1], at(0), at(9)), Duration::ZERO);
    }
}
