//! The result for people: a table per size, and what was expected.

use std::fmt::Write;

use super::plain::QemuWay;
use super::rewind::OurWay;
use super::sample::{Cache, Sample, Size};
use crate::report::{Table, milliseconds};
use crate::stats::Summary;

/// What issue and README promise of a lazy restore with a working set.
const AT_MOST_MS: f64 = 200.0;
const LARGEST_TIMES_SMALLEST: f64 = 1.5;
const TIMES_LOADVM: f64 = 20.0;
const TIMES_LOADVM_FROM_MIB: u32 = 4096;

/// What the tables mean.
const EXPLANATION: &str = "\
Milliseconds: median (least - most). From the start of the QEMU process, and of the command, to the guest's first tick (5 ms
apart; vmrewind's QEMU counts from the stamp of its log, up to 10 ms early); longest stall: between two ticks in the ten
seconds after that. Warm: the way's files were read right before; cold: they were forgotten, as told. In both cases as
much memory as the guest has was then used and freed: a host that takes free memory from this machine would otherwise be
measured. First time: of what the guest touches first only the capture's guess is known; working set:
after one restore.
The store holds the generations told, 5 % of the guest's pages changed between two; QEMU's own ways hold one. No other guest
runs. Content of memory: half text, a quarter random, a quarter zero.

";

/// One line on a sample, as it is taken.
pub(super) fn sample(sample: &Sample) -> String {
    let Sample { way, cache, qemu_ms, command_ms, stall_ms, .. } = sample;
    format!(
        "{way:<28} {cache:?}: QEMU to tick {:>7} ms, command to tick {:>7} ms, longest stall {:>7} ms",
        milliseconds(*qemu_ms),
        milliseconds(*command_ms),
        milliseconds(*stall_ms)
    )
}

/// All sizes, as they are recorded.
pub(crate) fn markdown(all: &[Size]) -> String {
    let mut text = String::from(EXPLANATION);
    for one in all {
        text.push_str(&size(one));
        text.push('\n');
    }
    if let Some(verdict) = over_sizes(all) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "- {verdict}");
    }
    text
}

/// One size: table and verdicts.
pub(super) fn size(size: &Size) -> String {
    let Size { memory_mib, filled_mib, generations, rounds, unknown_to_qemu, cold_by, .. } = size;
    let mut text = format!(
        "### {memory_mib} MiB of RAM, {filled_mib} MiB filled, {generations} generations, {rounds} rounds\n\n"
    );
    text.push_str(&figures(size).to_string());
    if let Some(how) = cold_by {
        let _ = write!(text, "\nCold: {how}.\n");
    }
    for way in unknown_to_qemu {
        let _ = write!(text, "\n{way}: not in this version of QEMU.\n");
    }
    let _ = writeln!(text);
    for verdict in verdicts(size) {
        let _ = writeln!(text, "- {verdict}");
    }
    text
}

fn figures(size: &Size) -> Table {
    let mut table = Table::new(&[
        "way",
        "QEMU to tick, warm",
        "command to tick, warm",
        "longest stall, warm",
        "QEMU to tick, cold",
        "command to tick, cold",
        "longest stall, cold",
    ]);
    for way in size.ways() {
        let mut row = vec![way.to_owned()];
        for cache in [Cache::Warm, Cache::Cold] {
            let figures: [fn(&Sample) -> f64; 3] =
                [|sample| sample.qemu_ms, |sample| sample.command_ms, |sample| sample.stall_ms];
            row.extend(figures.map(|figure| shown(size.summary(way, cache, figure))));
        }
        table.row(row);
    }
    table
}

fn shown(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".into(),
        |Summary { median, min, max }| {
            format!("{} ({} - {})", milliseconds(median), milliseconds(min), milliseconds(max))
        },
    )
}

fn to_tick(size: &Size, way: &str, cache: Cache) -> Option<f64> {
    size.summary(way, cache, |sample| sample.qemu_ms).map(|summary| summary.median)
}

fn verdicts(size: &Size) -> Vec<String> {
    let mut verdicts = Vec::new();
    let met = |met: bool| if met { "met" } else { "MISSED" };
    let Some(ours) = to_tick(size, OurWay::LazyAgain.name(), Cache::Warm) else { return verdicts };
    verdicts.push(format!(
        "with working set at most {AT_MOST_MS} ms from QEMU's start: {}, {} ms",
        met(ours <= AT_MOST_MS),
        milliseconds(ours)
    ));
    if let Some(theirs) = to_tick(size, QemuWay::Loadvm.name(), Cache::Warm) {
        let times = theirs / ours;
        let told =
            format!("{times:.0} times faster than {} ({} ms)", QemuWay::Loadvm.name(), milliseconds(theirs));
        verdicts.push(if size.memory_mib >= TIMES_LOADVM_FROM_MIB {
            format!(
                "at least {TIMES_LOADVM} times faster than -loadvm: {}, {told}",
                met(times >= TIMES_LOADVM)
            )
        } else {
            format!("{told} (expected from {TIMES_LOADVM_FROM_MIB} MiB on)")
        });
    }
    verdicts
}

/// What is expected of sizes beside each other.
fn over_sizes(all: &[Size]) -> Option<String> {
    let least = all.iter().min_by_key(|size| size.memory_mib)?;
    let most = all.iter().max_by_key(|size| size.memory_mib)?;
    if least.memory_mib == most.memory_mib {
        return None;
    }
    let way = OurWay::LazyAgain.name();
    let times = to_tick(most, way, Cache::Warm)? / to_tick(least, way, Cache::Warm)?;
    let met = if times <= LARGEST_TIMES_SMALLEST { "met" } else { "MISSED" };
    Some(format!(
        "{} MiB takes at most {LARGEST_TIMES_SMALLEST} times as long as {} MiB, with working set: {met}, {times:.2} times",
        most.memory_mib, least.memory_mib
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory_mib: u32, lazy_ms: f64, loadvm_ms: f64) -> Size {
        let sample = |way: &str, qemu_ms| Sample {
            way: way.into(),
            cache: Cache::Warm,
            round: 1,
            qemu_ms,
            command_ms: qemu_ms + 10.0,
            stall_ms: 7.0,
        };
        Size {
            memory_mib,
            filled_mib: 1,
            generations: 2,
            rounds: 1,
            unknown_to_qemu: vec![],
            cold_by: None,
            samples: vec![
                sample(OurWay::LazyAgain.name(), lazy_ms),
                sample(QemuWay::Loadvm.name(), loadvm_ms),
            ],
        }
    }

    /// Guards the verdicts: what is missed must say so, and what is met must not be called missed.
    #[test]
    fn verdicts_follow_the_figures() {
        let (small, large) = (of(512, 100.0, 1000.0), of(4096, 150.0, 3100.0));
        assert!(verdicts(&small)[0].contains(": met") && verdicts(&small)[1].starts_with("10 times"));
        assert!(verdicts(&large)[1].contains(": met"), "{:?}", verdicts(&large));
        assert!(over_sizes(&[small.clone(), large]).unwrap().contains(": met"));
        let slow = of(4096, 210.0, 3100.0);
        assert!(verdicts(&slow).iter().all(|verdict| verdict.contains(": MISSED")), "{:?}", verdicts(&slow));
        assert!(over_sizes(&[small.clone(), slow.clone()]).unwrap().contains(": MISSED"));
        assert_eq!(over_sizes(std::slice::from_ref(&small)), None);
        assert!(markdown(&[small, slow]).contains("| QEMU -loadvm"));
    }
}
