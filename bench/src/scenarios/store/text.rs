//! The result for people: tables per series, and what was expected.

use std::fmt::Write;

use super::contestants::Contestant;
use super::sample::{Generation, Reads, Series, Speeds, Worn, megabytes};
use crate::report::{Table, milliseconds};

/// What issue and README promise.
const INGEST_AT_LEAST: f64 = 500.0;
const INGEST_GOAL: f64 = 1000.0;
const BULK_AT_LEAST: f64 = 1000.0;
const BULK_GOAL_OF_FLAT: f64 = 0.8;
const WORN_AT_LEAST_OF_FRESH: f64 = 0.5;
const COLD_AT_MOST_US: f64 = 100.0;
const CACHED_AT_MOST_US: f64 = 3.0;
const TIMES_QUICKER: f64 = 5.0;
const PEAK_BASE_BYTES: u64 = 256 << 20;
const PEAK_PART: u64 = 500;

/// What the tables mean.
const EXPLANATION: &str = "\
Memory of the Linux test guest: of its filled part 60 % are programs and texts of this machine's /usr, 15 % text, 15 %
random, 10 % zero. Between generations the guest changes a part of these pages, in runs of eight: half of them 64 bytes in
each page, half of them wholly. MB/s are of pages that are not zero, until all is written out. The contestants are given
the same flat file of each generation, in the page cache, by turns, each after as much memory was used and freed: a host
that takes free memory from this machine would otherwise be measured. `snapshot create` is the whole command on the
running guest. Bulk read: an image opened and all its data read and verified, best of three; flat file: the same
pages read from the page cache and hashed with BLAKE3 on all cores. A page of a cold group was not read since the image
was opened, files in the page cache. Many generations: up to 256 MiB of the guest's pages, of which one in twenty is changed, all
over, from each generation to the next; the last one is read by turns with an image of the same pages that has no history.

";

/// One line on a generation, as it is taken.
pub(super) fn generation(generation: &Generation) -> String {
    let Generation { number, data_bytes, create_ms, method, peak_bytes, root_bytes, turns } = generation;
    let mut line = format!(
        "generation {number}: {:.0} MB of data, create ({method}) {} ms, at most {} MiB of memory, {} MiB stored;",
        megabytes(*data_bytes),
        milliseconds(*create_ms),
        peak_bytes >> 20,
        root_bytes >> 20
    );
    for turn in turns {
        // Writing to a string does not fail.
        let _ = write!(line, " {} {:.2} s, {} MiB;", turn.way, turn.seconds, turn.bytes >> 20);
    }
    line
}

/// All series, as they are recorded.
pub(crate) fn markdown(all: &[Series]) -> String {
    let mut text = String::from(EXPLANATION);
    for one in all {
        text.push_str(&series(one));
        text.push('\n');
    }
    text
}

/// One series: tables and verdicts.
pub(super) fn series(series: &Series) -> String {
    let Series { memory_mib, filled_mib, source_program_mib, source_text_mib, percent, generations, .. } =
        series;
    let mut text = format!(
        "### {memory_mib} MiB of RAM, {filled_mib} MiB filled ({source_program_mib} MiB of programs and {source_text_mib} \
         MiB of texts at hand), {percent} % changed, {} generations\n\n",
        generations.len()
    );
    text.push_str(&keeping(series).to_string());
    text.push('\n');
    text.push_str(&reading(series).to_string());
    text.push('\n');
    for verdict in verdicts(series) {
        let _ = writeln!(text, "- {verdict}");
    }
    text
}

fn keeping(series: &Series) -> Table {
    let mut table = Table::new(&[
        "way",
        "first, MB/s",
        "later, MB/s",
        "all, MB/s",
        "first, MiB",
        "all, MiB",
        "all, times the least",
    ]);
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.0}"));
    let mib = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |bytes| (bytes >> 20).to_string());
    let least = Contestant::ALL.iter().filter_map(|who| series.kept(*who).1).min();
    let times = |bytes: Option<u64>| match (bytes, least) {
        (Some(bytes), Some(least @ 1..)) => format!("{:.2}", megabytes(bytes) / megabytes(least)),
        _ => "-".into(),
    };
    let mut add = |way: &str, speeds: Speeds, (one, all): (Option<u64>, Option<u64>)| {
        let Speeds { first, later, all: whole } = speeds;
        table.row(vec![
            way.into(),
            number(first),
            number(later),
            number(whole),
            mib(one),
            mib(all),
            times(all),
        ]);
    };
    let root = |generation: Option<&Generation>| generation.map(|generation| generation.root_bytes);
    let roots = (root(series.generations.first()), root(series.generations.last()));
    add("`snapshot create`, whole", series.create_speeds(), roots);
    for who in Contestant::ALL {
        add(who.name(), series.speeds(who), series.kept(who));
    }
    table
}

fn reading(series: &Series) -> Table {
    let mut table = Table::new(&[
        "generation",
        "bulk read, MB/s",
        "flat file, MB/s",
        "page, cold group, us",
        "page, cached, us",
    ]);
    for reads in &series.reads {
        let summary =
            |summary: &crate::stats::Summary| format!("{:.1} (most {:.0})", summary.median, summary.max);
        table.row(vec![
            reads.generation.to_string(),
            format!("{:.0}", bulk_speed(reads)),
            format!("{:.0}", flat_speed(reads)),
            summary(&reads.cold_us),
            summary(&reads.cached_us),
        ]);
    }
    table
}

fn bulk_speed(reads: &Reads) -> f64 {
    megabytes(reads.data_bytes) / reads.bulk_seconds
}

fn flat_speed(reads: &Reads) -> f64 {
    megabytes(reads.data_bytes) / reads.flat_seconds
}

/// What is judged, one line for each goal, in the order of the tables.
#[derive(Default)]
struct Verdicts(Vec<String>);

impl Verdicts {
    fn judge(&mut self, what: &str, met: bool) {
        self.0.push(format!("{what}: {}", if met { "met" } else { "MISSED" }));
    }
}

fn verdicts(series: &Series) -> Vec<String> {
    let mut verdicts = Verdicts::default();
    judge_ingest(series, &mut verdicts);
    series.reads.iter().for_each(|reads| judge_reads(reads, &mut verdicts));
    [Contestant::Restic, Contestant::Borg]
        .into_iter()
        .for_each(|other| judge_other(series, other, &mut verdicts));
    series.worn.iter().for_each(|worn| judge_worn(worn, &mut verdicts));
    judge_memory(series, &mut verdicts);
    verdicts.0
}

fn judge_ingest(series: &Series, verdicts: &mut Verdicts) {
    let ours = series.speeds(Contestant::Store);
    for (what, speed) in [("the first generation", ours.first), ("all generations", ours.all)] {
        let Some(speed) = speed else { continue };
        let goal = if speed >= INGEST_GOAL { "goal reached" } else { "goal not reached" };
        verdicts.judge(
            &format!("ingest of {what} at least {INGEST_AT_LEAST} MB/s ({speed:.0}; 1 GB/s: {goal})"),
            speed >= INGEST_AT_LEAST,
        );
    }
}

fn judge_reads(reads: &Reads, verdicts: &mut Verdicts) {
    let (bulk, flat) = (bulk_speed(reads), flat_speed(reads));
    let number = reads.generation;
    verdicts.judge(
        &format!(
            "bulk read of generation {number} at least 1 GB/s ({bulk:.0} MB/s, {:.0} % of the flat file; goal {:.0} %)",
            bulk / flat * 100.0,
            BULK_GOAL_OF_FLAT * 100.0
        ),
        bulk >= BULK_AT_LEAST,
    );
    let (cold, cached) = (reads.cold_us.median, reads.cached_us.median);
    verdicts.judge(
        &format!("page of generation {number}, cold group, under {COLD_AT_MOST_US} us ({cold:.1})"),
        cold < COLD_AT_MOST_US,
    );
    verdicts.judge(
        &format!("page of generation {number}, cached, under {CACHED_AT_MOST_US} us ({cached:.1})"),
        cached < CACHED_AT_MOST_US,
    );
}

fn judge_other(series: &Series, other: Contestant, verdicts: &mut Verdicts) {
    if let ((_, Some(ours)), (_, Some(theirs))) = (series.kept(Contestant::Store), series.kept(other)) {
        let what =
            format!("fewer bytes than {} for all ({} of {} MiB)", other.name(), ours >> 20, theirs >> 20);
        verdicts.judge(&what, ours < theirs);
    }
    if let (Some(ours), Some(theirs)) = (series.speeds(Contestant::Store).all, series.speeds(other).all) {
        let times = ours / theirs;
        let what = format!("{TIMES_QUICKER} times the ingest speed of {} ({times:.1})", other.name());
        verdicts.judge(&what, times >= TIMES_QUICKER);
    }
}

fn judge_worn(worn: &Worn, verdicts: &mut Verdicts) {
    let part = worn.fresh_seconds / worn.worn_seconds;
    let speed = |seconds: f64| megabytes(worn.data_bytes) / seconds;
    verdicts.judge(
        &format!(
            "bulk read after {} generations at least {:.0} % of a fresh image's ({:.0} of {:.0} MB/s, {:.0} %)",
            worn.generations,
            WORN_AT_LEAST_OF_FRESH * 100.0,
            speed(worn.worn_seconds),
            speed(worn.fresh_seconds),
            part * 100.0
        ),
        part >= WORN_AT_LEAST_OF_FRESH,
    );
}

fn judge_memory(series: &Series, verdicts: &mut Verdicts) {
    let bound = PEAK_BASE_BYTES + (u64::from(series.memory_mib) << 20) / PEAK_PART;
    let peak = series.generations.iter().map(|generation| generation.peak_bytes).max().unwrap_or(0);
    let what = format!(
        "memory of `snapshot create` at most 256 MiB and 1/500 of RAM ({} of {} MiB)",
        peak >> 20,
        bound >> 20
    );
    verdicts.judge(&what, peak <= bound);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::store::sample::Turn;
    use crate::stats::Summary;

    fn sample(number: u32, seconds: f64, bytes: u64) -> Generation {
        let turn = |who: Contestant, times: f64| Turn {
            way: who.name().into(),
            seconds: seconds * times,
            bytes: if who == Contestant::Store { bytes } else { bytes * 2 },
        };
        Generation {
            number,
            data_bytes: 1_000_000_000,
            create_ms: 2000.0,
            method: "precopy".into(),
            peak_bytes: 100 << 20,
            root_bytes: bytes,
            turns: Contestant::ALL
                .into_iter()
                .map(|who| turn(who, if who == Contestant::Store { 1.0 } else { 6.0 }))
                .collect(),
        }
    }

    /// Guards the verdicts: what is missed must say so, and what is met must not be called missed.
    #[test]
    fn verdicts_follow_the_figures() {
        let quick = Summary { median: 2.0, min: 1.0, max: 9.0 };
        let mut series = Series {
            memory_mib: 2048,
            filled_mib: 1300,
            source_program_mib: 1,
            source_text_mib: 1,
            percent: 5,
            generations: vec![sample(1, 1.0, 400 << 20), sample(2, 0.5, 500 << 20)],
            reads: vec![Reads {
                generation: 1,
                data_bytes: 1_000_000_000,
                bulk_seconds: 0.9,
                flat_seconds: 0.8,
                cold_us: quick,
                cached_us: quick,
            }],
            worn: Some(Worn {
                generations: 100,
                data_bytes: 1_000_000_000,
                worn_seconds: 1.9,
                fresh_seconds: 1.0,
            }),
        };
        let speeds = series.speeds(Contestant::Store);
        assert_eq!((speeds.first, speeds.later), (Some(1000.0), Some(2000.0)));
        assert!(speeds.all.is_some_and(|all| (1333.0..1334.0).contains(&all)), "{speeds:?}");
        assert!(
            verdicts(&series).iter().all(|verdict| verdict.ends_with(": met")),
            "{:?}",
            verdicts(&series)
        );
        series.generations[0] = sample(1, 4.0, 400 << 20);
        series.generations[1].peak_bytes = 300 << 20;
        series.reads[0].cached_us.median = 3.5;
        series.worn = series.worn.map(|worn| Worn { worn_seconds: 2.1, ..worn });
        let missed = verdicts(&series).iter().filter(|verdict| verdict.ends_with(": MISSED")).count();
        assert_eq!(missed, 5, "{:?}", verdicts(&series));
        assert!(markdown(&[series]).contains("| zstd -1 of each"));
    }
}
