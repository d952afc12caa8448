//! What one turn gave.

use serde::Serialize;

use crate::stats::Summary;

/// How the guests came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// vmrewind, nothing prepared.
    First,
    /// vmrewind, beside another clone.
    Again,
    /// QEMU, each filled by itself.
    Eager,
}

impl Way {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::First, Self::Again, Self::Eager];

    /// As the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::First => "vmrewind clones, first",
            Self::Again => "vmrewind clones, again",
            Self::Eager => "QEMU -incoming file: each",
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) way: Way,
    pub(crate) round: u32,
    /// From the command until the last of them had ticked.
    pub(crate) all_ms: f64,
    /// Of each QEMU.
    pub(crate) pss_bytes: Vec<u64>,
}

/// All turns with one number of clones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Clones {
    pub(crate) memory_mib: u32,
    pub(crate) count: u32,
    pub(crate) rounds: u32,
    pub(crate) samples: Vec<Sample>,
}

impl Clones {
    /// The time until all tick.
    pub(super) fn times(&self, way: Way) -> Option<Summary> {
        Summary::of(self.of(way).map(|sample| sample.all_ms))
    }

    /// The PSS of one QEMU, in MiB, over all turns.
    pub(super) fn memory_mib(&self, way: Way) -> Option<Summary> {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
        Summary::of(self.of(way).flat_map(|sample| sample.pss_bytes.iter().map(mib)))
    }

    fn of(&self, way: Way) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.way == way)
    }
}
