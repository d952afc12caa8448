//! What one turn of one way gave.

use serde::Serialize;

use crate::stats::Summary;

/// What the page cache held of the way's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cache {
    /// All.
    Warm,
    /// Nothing.
    Cold,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) way: String,
    pub(crate) cache: Cache,
    pub(crate) round: u32,
    /// From the start of QEMU to the first tick.
    pub(crate) qemu_ms: f64,
    /// From the start of the command to the first tick.
    pub(crate) command_ms: f64,
    /// The longest stall in the ten seconds after it.
    pub(crate) stall_ms: f64,
}

/// All turns with guests of one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Size {
    pub(crate) memory_mib: u32,
    pub(crate) filled_mib: u32,
    pub(crate) generations: u32,
    pub(crate) rounds: u32,
    pub(crate) unknown_to_qemu: Vec<&'static str>,
    /// How the page cache was made cold.
    pub(crate) cold_by: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

impl Size {
    /// The ways, in the order of their first turn.
    pub(super) fn ways(&self) -> Vec<&str> {
        let mut ways = Vec::new();
        for sample in &self.samples {
            if !ways.contains(&sample.way.as_str()) {
                ways.push(sample.way.as_str());
            }
        }
        ways
    }

    /// A figure of all turns of a way.
    pub(super) fn summary(&self, way: &str, cache: Cache, figure: fn(&Sample) -> f64) -> Option<Summary> {
        let of = self.samples.iter().filter(|sample| sample.way == way && sample.cache == cache);
        Summary::of(of.map(figure))
    }
}
