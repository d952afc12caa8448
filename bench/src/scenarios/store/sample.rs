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
}

impl Series {
    /// Ingest speed in MB/s of data: the first generation, and the median of the later ones.
    pub(super) fn speeds(&self, who: Contestant) -> (Option<f64>, Option<f64>) {
        let mut speeds = self.generations.iter().filter_map(|generation| {
            let turn = generation.turns.iter().find(|turn| turn.way == who.name())?;
            Some(megabytes(generation.data_bytes) / turn.seconds)
        });
        let first = speeds.next();
        (first, Summary::of(speeds).map(|summary| summary.median))
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
