//! What one turn of one way gave, and what is made of all of them.

use std::time::Duration;

use serde::Serialize;

use crate::stats::Summary;

/// One of vmrewind's ways is told from QEMU's by its name.
const OURS: &str = "vmrewind, ";

/// What a third party saw of a turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Seen {
    /// STOP to RESUME, in milliseconds; the sum, should there be several.
    pub(crate) pause_ms: f64,
    /// The time between the guest's ticks before and after the pause.
    pub(crate) pause_gap_ms: f64,
    /// The longest time between two ticks in the whole turn.
    pub(crate) gap_ms: f64,
    /// What QEMU said within the pause, and when after STOP: where the pause went.
    pub(crate) moments: Vec<Moment>,
}

/// Something within a pause.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Moment {
    /// An event, or the migration's state that an event told.
    pub(crate) what: String,
    /// Milliseconds after STOP.
    pub(crate) at_ms: f64,
}

/// One turn of one way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// The way.
    pub(crate) way: String,
    /// From 1.
    pub(crate) round: u32,
    /// What was seen.
    #[serde(flatten)]
    pub(crate) seen: Seen,
    /// From the first command until the guest ran and the way was done.
    pub(crate) done_ms: f64,
    /// The same until the result is durable.
    pub(crate) on_disk_ms: f64,
    /// What the result takes.
    pub(crate) bytes: u64,
    /// The pause as vmrewind reports it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reported_pause_ms: Option<f64>,
}

/// All samples of guests of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SizeResult {
    /// RAM of the guests.
    pub(crate) memory_mib: u32,
    /// What their workload filled of it.
    pub(crate) filled_mib: u32,
    /// What it rewrote all the time.
    pub(crate) dirty_pages_per_second: u32,
    /// Turns of each way.
    pub(crate) rounds: u32,
    /// Ways that this QEMU doesn't have.
    pub(crate) unknown_to_qemu: Vec<&'static str>,
    /// All turns, as they were taken.
    pub(crate) samples: Vec<Sample>,
}

/// The name of vmrewind's way by the method that it reported.
pub(crate) fn our_way(method: &str) -> String {
    format!("{OURS}{method}")
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Sample {
    /// Whether this is vmrewind's.
    pub(crate) fn is_ours(&self) -> bool {
        self.way.starts_with(OURS)
    }
}

impl SizeResult {
    /// The ways, vmrewind's first, otherwise in the order of their first turn.
    pub(crate) fn ways(&self) -> Vec<&str> {
        let mut ways = Vec::new();
        let (ours, others): (Vec<_>, Vec<_>) = self.samples.iter().partition(|sample| sample.is_ours());
        for sample in ours.into_iter().chain(others) {
            if !ways.contains(&sample.way.as_str()) {
                ways.push(sample.way.as_str());
            }
        }
        ways
    }

    /// The samples of a way.
    pub(crate) fn of<'a>(&'a self, way: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.way == way)
    }

    /// A figure of a way.
    pub(crate) fn summary(&self, way: &str, figure: impl Fn(&Sample) -> f64) -> Option<Summary> {
        Summary::of(self.of(way).map(figure))
    }

    /// QEMU's way with the shortest median pause, and that.
    pub(crate) fn best_of_qemu(&self) -> Option<(&str, f64)> {
        let others = self.samples.iter().filter(|sample| !sample.is_ours()).map(|sample| sample.way.as_str());
        let pauses = others.filter_map(|way| Some((way, self.pause(way)?)));
        pauses.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// The median pause of a way.
    pub(crate) fn pause(&self, way: &str) -> Option<f64> {
        self.summary(way, |sample| sample.seen.pause_ms).map(|summary| summary.median)
    }

    /// How many times shorter the pause of one of vmrewind's ways is than that of the best of QEMU's.
    pub(crate) fn times_shorter(&self, way: &str) -> Option<f64> {
        Some(self.best_of_qemu()?.1 / self.pause(way)?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn sample(way: &str, pause_ms: f64) -> Sample {
        let moments = vec![
            Moment { what: "STOP".into(), at_ms: 0.0 },
            Moment { what: "device".into(), at_ms: pause_ms / 4.0 },
            Moment { what: "RESUME".into(), at_ms: pause_ms },
        ];
        let seen = Seen { pause_ms, pause_gap_ms: pause_ms + 5.0, gap_ms: pause_ms + 9.0, moments };
        Sample {
            way: way.into(),
            round: 1,
            seen,
            done_ms: 100.0,
            on_disk_ms: 200.0,
            bytes: 3 << 20,
            reported_pause_ms: None,
        }
    }

    pub(crate) fn result(memory_mib: u32, pauses: &[(&str, f64)]) -> SizeResult {
        let samples: Vec<_> = pauses.iter().map(|(way, pause)| sample(way, *pause)).collect();
        SizeResult {
            memory_mib,
            filled_mib: memory_mib / 2,
            dirty_pages_per_second: 1,
            rounds: 3,
            unknown_to_qemu: vec!["magic"],
            samples,
        }
    }

    /// Guards the ratio: it is of medians, and against the best of QEMU's ways, not the worst or the first.
    #[test]
    fn the_ratio_is_to_the_best_median_of_qemus_ways() {
        let ours = our_way("precopy");
        let pauses = [
            ("slow", 900.0),
            (ours.as_str(), 9.0),
            ("quick", 100.0),
            (ours.as_str(), 10.0),
            ("quick", 300.0),
            ("quick", 200.0),
            (ours.as_str(), 4000.0),
        ];
        let result = result(512, &pauses);
        assert_eq!(result.ways(), [ours.as_str(), "slow", "quick"]);
        assert_eq!(result.best_of_qemu(), Some(("quick", 200.0)));
        assert_eq!(result.times_shorter(&ours), Some(20.0));
        assert_eq!(result.times_shorter("none"), None);
    }
}
