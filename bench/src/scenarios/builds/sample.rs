//! What one command of one build gave.

use serde::Serialize;

use crate::stats::Summary;

/// Which build of vmrewind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Build {
    /// The other one.
    Before,
    /// The one of this tree, or that was named.
    This,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// The pause of a capture, as the command tells it.
    Pause,
    /// A capture of the running guest, from the command to its end.
    Capture,
    /// A lazy restore in place of a running guest, to the first tick.
    RestoreOfRunning,
    /// The same where no QEMU runs.
    RestoreOfStopped,
    /// An eager restore where no QEMU runs, to the first tick.
    RestoreEagerly,
    /// `vm clone --start`, to the first tick.
    Clone,
}

impl What {
    /// All, in the order of a turn.
    pub(crate) const ALL: [Self; 6] = [
        Self::Pause,
        Self::Capture,
        Self::RestoreOfRunning,
        Self::RestoreOfStopped,
        Self::RestoreEagerly,
        Self::Clone,
    ];

    /// As the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pause => "snapshot create: pause",
            Self::Capture => "snapshot create: whole",
            Self::RestoreOfRunning => "snapshot restore, VM runs: to tick",
            Self::RestoreOfStopped => "snapshot restore, VM is off: to tick",
            Self::RestoreEagerly => "snapshot restore --eager, VM is off: to tick",
            Self::Clone => "vm clone --start: to tick",
        }
    }
}

/// One command.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) build: Build,
    pub(crate) what: What,
    pub(crate) round: u32,
    pub(crate) ms: f64,
    /// The command's own time line: what was reached, and how long after the step before.
    pub(crate) steps: Vec<(String, f64)>,
}

/// All commands on guests of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Size {
    pub(crate) memory_mib: u32,
    pub(crate) rounds: u32,
    pub(crate) samples: Vec<Sample>,
}

impl Size {
    /// The samples of a build and command.
    pub(super) fn of(&self, build: Build, what: What) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.build == build && sample.what == what)
    }

    /// The time of a command.
    pub(super) fn summary(&self, build: Build, what: What) -> Option<Summary> {
        Summary::of(self.of(build, what).map(|sample| sample.ms))
    }

    /// The steps of a command in the order of its first round, each with its time.
    pub(super) fn steps(&self, what: What) -> Vec<(String, Summary)> {
        let Some(first) = self.of(Build::This, what).next() else { return Vec::new() };
        let of_step = |name: &String| {
            let all = self
                .of(Build::This, what)
                .filter_map(|sample| sample.steps.iter().find(|(step, _)| step == name).map(|(_, ms)| *ms));
            Some((name.clone(), Summary::of(all)?))
        };
        first.steps.iter().filter_map(|(name, _)| of_step(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the break-down: a step that a round did not take leaves the others' figures alone.
    #[test]
    fn steps_are_found_by_name() {
        let sample = |round, steps: &[(&str, f64)]| Sample {
            build: Build::This,
            what: What::Clone,
            round,
            ms: 1.0,
            steps: steps.iter().map(|(name, ms)| ((*name).to_owned(), *ms)).collect(),
        };
        let samples = vec![sample(1, &[("a", 1.0), ("b", 5.0)]), sample(2, &[("b", 7.0)])];
        let steps = Size { memory_mib: 1, rounds: 2, samples }.steps(What::Clone);
        let medians: Vec<_> = steps.iter().map(|(name, times)| (name.as_str(), times.median)).collect();
        assert_eq!(medians, [("a", 1.0), ("b", 6.0)]);
    }
}
