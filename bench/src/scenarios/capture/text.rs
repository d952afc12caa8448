//! The result for people: a table per size, where the pause went, and what was expected of it.

use std::fmt::Write;

use super::sample::{Sample, SizeResult, our_way};
use crate::report::{Table, milliseconds};
use crate::stats::Summary;

/// What issue and README promise of a pause by precopy.
const PAUSE_AT_MOST_MS: f64 = 30.0;
/// And beside the best of QEMU's ways, from this size on.
const TIMES_SHORTER: f64 = 20.0;
const TIMES_SHORTER_FROM_MIB: u32 = 2048;

/// What the tables mean.
const EXPLANATION: &str = "\
Milliseconds: median (least - most). Pause: QEMU's STOP event to its RESUME event. Guest's gap: between its ticks (5 ms
apart) before and after the pause; longest gap: between any two of its ticks, from the first command until the result is
on disk. Done: the guest runs and the way says that it is done. On disk: the result would survive a power cut; a
`migrate` to a file is synced for that after the guest runs, the others sync by themselves. It holds the memory only;
the others keep the disk of the same instant too. Two guests with one command line (q35, one processor, one qcow2 disk)
and one content of memory (half text, a quarter random, a quarter zero) take turns, one of them always stopped.

";

/// One line on a sample, as it is taken.
pub(super) fn sample(sample: &Sample) -> String {
    let Sample { way, seen, done_ms, on_disk_ms, bytes, .. } = sample;
    format!(
        "{way:<32} pause {:>7} ms, guest's gap {:>7} ms, longest {:>7} ms, done {:>7} ms, on disk {:>7} ms, {} MiB",
        milliseconds(seen.pause_ms),
        milliseconds(seen.pause_gap_ms),
        milliseconds(seen.gap_ms),
        milliseconds(*done_ms),
        milliseconds(*on_disk_ms),
        bytes >> 20
    )
}

/// All sizes, as they are recorded.
pub(crate) fn markdown(results: &[SizeResult]) -> String {
    let mut text = String::from(EXPLANATION);
    for result in results {
        text.push_str(&size(result));
        text.push('\n');
    }
    text
}

/// One size: tables and verdicts.
pub(super) fn size(result: &SizeResult) -> String {
    let SizeResult { memory_mib, filled_mib, dirty_pages_per_second, rounds, .. } = result;
    let mut text = format!(
        "### {memory_mib} MiB of RAM, {filled_mib} MiB filled, {dirty_pages_per_second} pages rewritten per second, \
         {rounds} rounds\n\n"
    );
    text.push_str(&figures(result).to_string());
    for way in &result.unknown_to_qemu {
        // Writing to a string does not fail.
        let _ = write!(text, "\n{way}: not in this version of QEMU.\n");
    }
    let ours = our_way("precopy");
    if result.of(&ours).next().is_some() {
        let _ = write!(text, "\nWhere the pause of {ours} goes:\n\n{}", steps(result, &ours));
    }
    let _ = writeln!(text);
    for verdict in verdicts(result) {
        let _ = writeln!(text, "- {verdict}");
    }
    text
}

fn figures(result: &SizeResult) -> Table {
    let mut table = Table::new(&[
        "way",
        "pause",
        "guest's gap",
        "longest gap",
        "done",
        "on disk",
        "MiB stored",
        "pause, times the shortest",
    ]);
    let shortest = result.ways().iter().filter_map(|way| result.pause(way)).fold(f64::INFINITY, f64::min);
    for way in result.ways() {
        let cell = |figure: fn(&Sample) -> f64| result.summary(way, figure).map_or_else(String::new, range);
        let stored = result.of(way).map(|sample| sample.bytes >> 20).max().unwrap_or(0);
        let times = result.pause(way).map_or_else(String::new, |pause| format!("{:.1}", pause / shortest));
        table.row(vec![
            way.into(),
            cell(|sample| sample.seen.pause_ms),
            cell(|sample| sample.seen.pause_gap_ms),
            cell(|sample| sample.seen.gap_ms),
            cell(|sample| sample.done_ms),
            cell(|sample| sample.on_disk_ms),
            stored.to_string(),
            times,
        ]);
    }
    table
}

fn range(summary: Summary) -> String {
    let Summary { median, min, max } = summary;
    format!("{} ({} - {})", milliseconds(median), milliseconds(min), milliseconds(max))
}

/// The time between what QEMU tells within a pause.
fn steps(result: &SizeResult, way: &str) -> Table {
    let mut names: Vec<(String, String)> = Vec::new();
    let mut times: Vec<Vec<f64>> = Vec::new();
    for sample in result.of(way) {
        for pair in sample.seen.moments.windows(2) {
            let name = (pair[0].what.clone(), pair[1].what.clone());
            let at = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                times.push(Vec::new());
                names.len() - 1
            });
            times[at].push(pair[1].at_ms - pair[0].at_ms);
        }
    }
    let mut table = Table::new(&["from - to", "ms"]);
    for ((from, to), times) in names.into_iter().zip(times) {
        table.row(vec![format!("{from} - {to}"), Summary::of(times).map_or_else(String::new, range)]);
    }
    table
}

/// What was expected, and whether it came so.
fn verdicts(result: &SizeResult) -> Vec<String> {
    let ours = our_way("precopy");
    let word = |met: bool| if met { "met" } else { "MISSED" };
    let mut verdicts = Vec::new();
    let others: usize = result.samples.iter().filter(|sample| sample.is_ours() && sample.way != ours).count();
    if others > 0 {
        verdicts
            .push(format!("precopy in every round: MISSED, {others} of {} by another method", result.rounds));
    }
    let (Some(pause), Some((best, best_ms)), Some(times)) =
        (result.pause(&ours), result.best_of_qemu(), result.times_shorter(&ours))
    else {
        verdicts.push("no pause by precopy to judge: MISSED".into());
        return verdicts;
    };
    let met = word(pause <= PAUSE_AT_MOST_MS);
    verdicts.push(format!(
        "median pause at most {PAUSE_AT_MOST_MS} ms by precopy: {met}, {} ms",
        milliseconds(pause)
    ));
    let comparison = format!("{times:.0} times shorter than {best} ({} ms)", milliseconds(best_ms));
    if result.memory_mib >= TIMES_SHORTER_FROM_MIB {
        let met = word(times >= TIMES_SHORTER);
        verdicts
            .push(format!("at least {TIMES_SHORTER} times shorter than QEMU's best: {met}, {comparison}"));
    } else {
        verdicts.push(format!("{comparison} (expected from {TIMES_SHORTER_FROM_MIB} MiB on)"));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::result;
    use super::*;

    const OURS: &str = "vmrewind, precopy";

    /// Guards honesty: a figure that misses what was expected must say so.
    #[test]
    fn what_misses_is_printed_as_missed() {
        let of = |memory_mib, ours, best| verdicts(&result(memory_mib, &[(OURS, ours), ("QEMU", best)]));
        assert_eq!(
            of(2048, 10.0, 250.0),
            [
                "median pause at most 30 ms by precopy: met, 10.0 ms",
                "at least 20 times shorter than QEMU's best: met, 25 times shorter than QEMU (250 ms)"
            ]
        );
        let missed = of(4096, 40.0, 400.0);
        assert!(missed.iter().all(|verdict| verdict.contains("MISSED")), "{missed:?}");
        assert!(of(512, 10.0, 50.0)[1].starts_with("5 times shorter than QEMU (50.0 ms) (expected from"));
        let other = verdicts(&result(512, &[("vmrewind, background", 1.0), ("QEMU", 9.0)]));
        assert!(other.len() == 2 && other.iter().all(|verdict| verdict.contains("MISSED")), "{other:?}");
    }

    /// Guards the page: every way with its figures, and where vmrewind's pause went.
    #[test]
    fn a_size_shows_figures_steps_and_verdicts() {
        let pauses = [(OURS, 8.0), ("QEMU", 400.0), (OURS, 12.0), (OURS, 10.0)];
        let text = size(&result(512, &pauses));
        let row =
            |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        let cells = |start: &str| -> Vec<String> {
            row(start).split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        assert_eq!(cells("| vmrewind")[2..4], ["10.0 (8.0 - 12.0)", "15.0 (13.0 - 17.0)"]);
        assert_eq!(cells("| QEMU")[8], "40.0");
        assert_eq!(cells("| STOP - device")[2], "2.5 (2.0 - 3.0)");
        assert_eq!(cells("| device - RESUME")[2], "7.5 (6.0 - 9.0)");
        assert!(text.contains("magic: not in this version of QEMU."), "{text}");
    }
}
