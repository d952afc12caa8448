//! Work spread over the cores, with results in order and a bound on how far it is ahead.
//!
//! ```text
//!   jobs ──▶ threads: work ──▶ results, at most `ahead` of them ──▶ consume, on the caller's thread, in order
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Returns the number of threads for work on data: the cores, and at least two.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).max(2)
}

/// Cuts items into jobs of at least `bytes` bytes each, but for the last; in order, none is left out.
pub(crate) fn batches<T>(items: &[T], bytes: u64, bytes_of: impl Fn(&T) -> u64) -> Vec<&[T]> {
    let mut batches = Vec::new();
    let (mut from, mut sum) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        sum += bytes_of(item);
        if sum >= bytes {
            batches.extend(items.get(from..=at));
            (from, sum) = (at + 1, 0);
        }
    }
    batches.extend(items.get(from..).filter(|rest| !rest.is_empty()));
    batches
}

struct State<J, T> {
    jobs: J,
    /// Number of the next job.
    next_job: u64,
    /// Number of the next result to be consumed.
    next_result: u64,
    done: BTreeMap<u64, T>,
    /// Jobs in all, once that is known.
    end: Option<u64>,
    is_stopped: bool,
}

struct Board<J, T> {
    state: Mutex<State<J, T>>,
    changed: Condvar,
    ahead: u64,
}

/// Runs `work` for each job on all cores, and `consume` for each result in the order of the jobs.
///
/// No job is begun that is more than some jobs per core ahead of the one that is consumed. A break ends everything and is
/// returned.
pub(crate) fn run<J, T, B>(
    jobs: J,
    work: impl Fn(J::Item) -> T + Sync,
    mut consume: impl FnMut(T) -> ControlFlow<B>,
) -> ControlFlow<B>
where
    J: Iterator + Send,
    T: Send,
{
    let threads = threads();
    let state =
        State { jobs, next_job: 0, next_result: 0, done: BTreeMap::new(), end: None, is_stopped: false };
    let board = Board { state: Mutex::new(state), changed: Condvar::new(), ahead: 2 * threads as u64 };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| board.help(&work));
        }
        // Also when `consume` panics: the scope waits for the threads.
        let _stop = StopOnDrop(&board);
        while let Some(result) = board.next_result() {
            consume(result)?;
        }
        ControlFlow::Continue(())
    })
}

impl<J: Iterator, T> Board<J, T> {
    /// Does one job after the other until there are no more.
    fn help(&self, work: &impl Fn(J::Item) -> T) {
        // A panic must not leave the caller waiting for a result.
        let _stop = StopOnPanic(self);
        while let Some((number, job)) = self.next_job() {
            let result = work(job);
            self.lock().done.insert(number, result);
            self.changed.notify_all();
        }
    }

    fn next_job(&self) -> Option<(u64, J::Item)> {
        let mut state = self.lock();
        while !state.is_stopped && state.next_job >= state.next_result + self.ahead {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_stopped || state.end.is_some() {
            return None;
        }
        let number = state.next_job;
        let Some(job) = state.jobs.next() else {
            state.end = Some(number);
            drop(state);
            self.changed.notify_all();
            return None;
        };
        state.next_job += 1;
        Some((number, job))
    }

    fn next_result(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            let number = state.next_result;
            if let Some(result) = state.done.remove(&number) {
                state.next_result += 1;
                drop(state);
                self.changed.notify_all();
                return Some(result);
            }
            if state.is_stopped || state.end == Some(number) {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<J, T> Board<J, T> {
    fn lock(&self) -> MutexGuard<'_, State<J, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().is_stopped = true;
        self.changed.notify_all();
    }
}

struct StopOnDrop<'a, J, T>(&'a Board<J, T>);

impl<J, T> Drop for StopOnDrop<'_, J, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct StopOnPanic<'a, J, T>(&'a Board<J, T>);

impl<J, T> Drop for StopOnPanic<'_, J, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    // An item that is left out would not be checked, or not be written anew before its pack goes.
    #[test]
    fn batches_hold_all_items_in_order() {
        let cut = |items: &[u64]| batches(items, 10, |item| *item).concat();
        assert_eq!(batches(&[4, 6, 1, 30, 2], 10, |item| *item), [&[4, 6][..], &[1, 30], &[2]]);
        assert_eq!(batches(&[10], 10, |item| *item), [[10]]);
        assert_eq!(cut(&[]), [0_u64; 0]);
        assert_eq!(cut(&[1, 2, 3]), [1, 2, 3]);
    }

    // A restore must get memory in order, whatever core was faster.
    #[test]
    fn results_come_in_order() {
        let mut found = Vec::new();
        let end = run(
            0..1000_u64,
            |job| {
                if job % 7 == 0 {
                    std::thread::yield_now();
                }
                job * 3
            },
            |result| {
                found.push(result);
                ControlFlow::<()>::Continue(())
            },
        );
        assert_eq!(end, ControlFlow::Continue(()));
        assert_eq!(found, (0..1000).map(|job| job * 3).collect::<Vec<_>>());
    }

    // Read-ahead is memory: it is bounded while the consumer is slow, and ends when the consumer does.
    #[test]
    fn work_is_never_far_ahead_of_the_consumer() {
        let begun = AtomicU64::new(0);
        let mut consumed = 0;
        let end = run(
            0..u64::MAX,
            |_| begun.fetch_add(1, Ordering::SeqCst),
            |_| {
                consumed += 1;
                std::thread::yield_now();
                let ahead = begun.load(Ordering::SeqCst) - (consumed - 1);
                assert!(ahead <= 3 * threads() as u64, "{ahead} ahead");
                if consumed == 500 { ControlFlow::Break("enough") } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(end, ControlFlow::Break("enough"));
    }
}
