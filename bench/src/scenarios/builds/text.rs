//! The result for people.

use std::fmt::Write;

use super::sample::{Build, Sample, Size, What};
use crate::report::{Table, milliseconds};
use crate::stats::Summary;

const EXPLANATION: &str = "\
Milliseconds: median (least - most). Two builds, each with a guest of the same content (dirties 16 MiB at 1000 pages per second,
ticks every 5 ms; half text, a quarter random, a quarter zero), take turns; the other guest rests. A capture is timed from the
start of the command to its end, everything else to the guest's first tick. Files are in the page cache. The steps are this
build's own time line: each with the time since the step before.

";

/// One line on a sample, as it is taken.
pub(super) fn sample(sample: &Sample) -> String {
    format!("{:<46} {:?}: {:>7} ms", sample.what.name(), sample.build, milliseconds(sample.ms))
}

/// All sizes, as they are recorded.
pub(crate) fn markdown(all: &[Size]) -> String {
    let mut text = String::from(EXPLANATION);
    for one in all {
        text.push_str(&size(one));
        text.push('\n');
    }
    text
}

/// One size: the builds beside each other, then where this one's time goes.
pub(super) fn size(size: &Size) -> String {
    let mut text = format!("### {} MiB of RAM, {} rounds\n\n", size.memory_mib, size.rounds);
    let mut table = Table::new(&["what", "before", "this build", "times"]);
    for what in What::ALL {
        let (before, this) = (size.summary(Build::Before, what), size.summary(Build::This, what));
        let ratio = before.zip(this).map(|(before, this)| this.median / before.median);
        table.row(vec![
            what.name().into(),
            figure(before),
            figure(this),
            ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
        ]);
    }
    text.push_str(&table.to_string());
    for what in What::ALL {
        let steps = size.steps(what);
        if !steps.is_empty() {
            let mut table = Table::new(&[what.name(), "ms"]);
            for (name, times) in steps {
                table.row(vec![name, figure(Some(times))]);
            }
            // Writing to a string does not fail.
            let _ = write!(text, "\n{table}");
        }
    }
    text
}

fn figure(times: Option<Summary>) -> String {
    times.map_or_else(
        || "-".into(),
        |Summary { median, min, max }| {
            format!("{} ({} - {})", milliseconds(median), milliseconds(min), milliseconds(max))
        },
    )
}
