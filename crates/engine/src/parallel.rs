//! Several pieces of one kind of work at once, on threads that end with the call.

use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many at once: more than there are cores, since most of the time of such work is spent waiting for the disk or
/// for another process.
pub(crate) fn width() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get) * 4
}

/// Calls `work` for each item, at most [`width`] at once, and gives the results in the order of the items.
pub(crate) fn each<T: Sync, R: Send + Sync>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    let worker = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((item, result)) = items.get(at).zip(results.get(at)) else { return };
            let _ = result.set(work(item));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..items.len().min(width()) {
            scope.spawn(worker);
        }
        worker();
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}

#[cfg(test)]
mod tests {
    /// Results must be those of their items, however the threads are scheduled.
    #[test]
    fn results_are_in_order() {
        let items: Vec<u64> = (0..100).collect();
        assert_eq!(
            super::each(&items, |item| item * 2),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        assert!(super::each(&[] as &[u64], |item| *item).is_empty());
    }
}
