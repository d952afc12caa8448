//! What was measured of a series of generations.

use serde::Serialize;

use super::contestants::Contestant;
use crate::stats::Summary;

/// One contestant's turn with one generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Turn {
    pub(crate) way: String,
    pub(crate) seconds: f64,
    /// All that it keeps by now.
    pub(crate) bytes: u64,
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Generation {
    pub(crate) number: u32,
    /// Of pages that are not zero.
    pub(crate) data_bytes: u64,
    /// `snapshot create`, as it says itself.
    pub(crate) create_ms: f64,
    pub(crate) method: String,
    /// The most memory that `snapshot create` had.
    pub(crate) peak_bytes: u64,
    /// What the root's store takes by now.
    pub(crate) root_bytes: u64,
    pub(crate) turns: Vec<Turn>,
}

/// How an image is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Reads {
    pub(crate) generation: u32,
    pub(crate) data_bytes: u64,
    pub(crate) bulk_seconds: f64,
    /// The same bytes from a flat file in the page cache, each page hashed.
    pub(crate) flat_seconds: f64,
    pub(crate) cold_us: Summary,
    pub(crate) cached_us: Summary,
}

/// How an image is read that has been through many generations, and the same pages in a store of their own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Worn {
    pub(crate) generations: u32,
    pub(crate) data_bytes: u64,
    pub(crate) worn_seconds: f64,
    pub(crate) fresh_seconds: f64,
}

/// Speeds in MB/s of data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speeds {
    /// Of the first generation, of which nothing is known.
    pub(super) first: Option<f64>,
    /// The median of the later ones.
    pub(super) later: Option<f64>,
    /// All data by all time.
    pub(super) all: Option<f64>,
}

impl Speeds {
    fn of(turns: impl Iterator<Item = (u64, f64)>) -> Self {
        let turns: Vec<(f64, f64)> = turns.map(|(bytes, seconds)| (megabytes(bytes), seconds)).collect();
        let speed = |(bytes, seconds): &(f64, f64)| bytes / seconds;
        let (bytes, seconds) = turns.iter().fold((0.0, 0.0), |sum, turn| (sum.0 + turn.0, sum.1 + turn.1));
        Self {
            first: turns.first().map(speed),
            later: Summary::of(turns.iter().skip(1).map(speed)).map(|summary| summary.median),
            all: (!turns.is_empty()).then(|| bytes / seconds),
        }
    }
}

/// All generations with one part dirtied between them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Series {
    pub(crate) memory_mib: u32,
    pub(crate) filled_mib: u32,
    pub(crate) source_program_mib: u64,
    pub(crate) source_text_mib: u64,
    pub(crate) percent: u32,
    pub(crate) generations: Vec<Generation>,
    pub(crate) reads: Vec<Reads>,
    /// Measured once, in the first series.
    pub(crate) worn: Option<Worn>,
}

impl Series {
    /// Ingest speeds of a contestant.
    pub(super) fn speeds(&self, who: Contestant) -> Speeds {
        Speeds::of(self.generations.iter().filter_map(|generation| {
            let turn = generation.turns.iter().find(|turn| turn.way == who.name())?;
            Some((generation.data_bytes, turn.seconds))
        }))
    }

    /// Speeds of `snapshot create`.
    pub(super) fn create_speeds(&self) -> Speeds {
        Speeds::of(
            self.generations.iter().map(|generation| (generation.data_bytes, generation.create_ms / 1e3)),
        )
    }

    /// What a contestant keeps after the first and after the last generation.
    pub(super) fn kept(&self, who: Contestant) -> (Option<u64>, Option<u64>) {
        let bytes = |generation: &Generation| {
            generation.turns.iter().find(|turn| turn.way == who.name()).map(|turn| turn.bytes)
        };
        (self.generations.first().and_then(bytes), self.generations.last().and_then(bytes))
    }
}

/// Millions of bytes.
pub(super) fn megabytes(bytes: u64) -> f64 {
    // Sizes of memory are far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    bytes / 1e6
}
