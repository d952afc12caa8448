//! The result for people: a table per number of clones, and what was expected.

use std::fmt::Write;

use super::sample::{Clones, Sample, Way};
use crate::report::{Table, milliseconds};
use crate::stats::Summary;

/// What issue and README promise of ten clones.
const COUNT: u32 = 10;
const AT_MOST_MS: f64 = 1500.0;
const AT_MOST_MIB: f64 = 60.0;

/// What the tables mean.
const EXPLANATION: &str = "\
Until all tick: milliseconds from the command to the first tick (20 ms apart) of the last guest; PSS: MiB of each QEMU, three
seconds later; median (least - most). First: no clone lives, and the flat image that they share is made; again: beside
another clone. QEMU: as many processes at once, each with the same `migrate` file and a copy of the disk. Content of memory:
half text, a quarter random, a quarter zero, 65 % of RAM filled. Before each turn the memory of as many guests (8 GiB at
most) was used and freed: a host that takes free memory from this machine would otherwise be measured.

";

/// One line on a sample, as it is taken.
pub(super) fn sample(sample: &Sample) -> String {
    let most = sample.pss_bytes.iter().max().copied().unwrap_or(0);
    format!(
        "{:<26} {:>3}: all tick after {:>7} ms, at most {} MiB each",
        sample.way.name(),
        sample.pss_bytes.len(),
        milliseconds(sample.all_ms),
        most >> 20
    )
}

/// All numbers, as they are recorded.
pub(crate) fn markdown(all: &[Clones]) -> String {
    let mut text = String::from(EXPLANATION);
    for one in all {
        text.push_str(&clones(one));
        text.push('\n');
    }
    text
}

/// One number: table and verdicts.
pub(super) fn clones(clones: &Clones) -> String {
    let Clones { memory_mib, count, rounds, .. } = clones;
    let plural = if *count == 1 { "" } else { "s" };
    let mut text = format!("### {count} clone{plural} of a guest of {memory_mib} MiB, {rounds} rounds\n\n");
    let mut table = Table::new(&["way", "until all tick", "PSS, MiB"]);
    let shown = |summary: Option<Summary>| {
        summary.map_or_else(
            || "-".into(),
            |Summary { median, min, max }| {
                format!("{} ({} - {})", milliseconds(median), milliseconds(min), milliseconds(max))
            },
        )
    };
    for way in Way::ALL {
        table.row(vec![way.name().into(), shown(clones.times(way)), shown(clones.memory_mib(way))]);
    }
    text.push_str(&table.to_string());
    text.push('\n');
    for verdict in verdicts(clones) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "- {verdict}");
    }
    text
}

fn verdicts(clones: &Clones) -> Vec<String> {
    let mut verdicts = Vec::new();
    let (Some(time), Some(memory)) = (clones.times(Way::Again), clones.memory_mib(Way::Again)) else {
        return verdicts;
    };
    if clones.count == COUNT {
        let met = |met: bool| if met { "met" } else { "MISSED" };
        verdicts.push(format!(
            "{COUNT} clones tick after at most {AT_MOST_MS} ms: {}, {} ms",
            met(time.median <= AT_MOST_MS),
            milliseconds(time.median)
        ));
        verdicts.push(format!(
            "at most {AT_MOST_MIB} MiB each: {}, {} MiB at most",
            met(memory.max <= AT_MOST_MIB),
            milliseconds(memory.max)
        ));
    }
    if let (Some(theirs), Some(their_memory)) = (clones.times(Way::Eager), clones.memory_mib(Way::Eager)) {
        verdicts.push(format!(
            "{:.1} times faster than QEMU by itself, with {:.1} times less memory",
            theirs.median / time.median,
            their_memory.median / memory.median
        ));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ten(all_ms: f64, mib: u64) -> Clones {
        let sample = |way, times: u64, slower: f64| Sample {
            way,
            round: 1,
            all_ms: all_ms * slower,
            pss_bytes: vec![(mib * times) << 20; 10],
        };
        let samples =
            vec![sample(Way::First, 1, 1.5), sample(Way::Again, 1, 1.0), sample(Way::Eager, 9, 3.0)];
        Clones { memory_mib: 512, count: 10, rounds: 1, samples }
    }

    /// Guards the verdicts: what is missed must say so, and what is met must not be called missed.
    #[test]
    fn verdicts_follow_the_figures() {
        let good = verdicts(&ten(1200.0, 40));
        assert!(good[0].contains(": met") && good[1].contains(": met"), "{good:?}");
        assert_eq!(good[2], "3.0 times faster than QEMU by itself, with 9.0 times less memory");
        let bad = verdicts(&ten(1600.0, 61));
        assert!(bad[0].contains(": MISSED") && bad[1].contains(": MISSED"), "{bad:?}");
        assert!(markdown(&[ten(1.0, 1)]).contains("### 10 clones of a guest of 512 MiB"));
    }
}
