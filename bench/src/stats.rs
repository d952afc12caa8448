//! The few figures that a handful of rounds can bear: median, least and most. No mean: one stall would own it.

use serde::Serialize;

/// Median, least and most of some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The middle sample, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The least sample.
    pub(crate) min: f64,
    /// The greatest sample.
    pub(crate) max: f64,
}

impl Summary {
    /// Summarises samples; `None` where there are none. Samples that are no numbers are left out.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|sample| !sample.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the one figure that every claim rests on.
    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let summary = |samples: &[f64]| Summary::of(samples.iter().copied());
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[7.0]), Some(Summary { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(summary(&[9.0, 1.0, 3.0]), Some(Summary { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(summary(&[4.0, 1.0, 100.0, 2.0]), Some(Summary { median: 3.0, min: 1.0, max: 100.0 }));
    }

    /// Guards against one stalled round owning the result.
    #[test]
    fn a_stall_moves_the_greatest_and_not_the_median() {
        let summary = Summary::of([10.0, 11.0, 12.0, 11.0, 9000.0]).unwrap();
        assert_eq!((summary.median, summary.max), (11.0, 9000.0));
        assert_eq!(Summary::of([f64::NAN]), None);
    }
}
