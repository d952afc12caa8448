//! Schedules of threads that are drawn by lot, for what threads share by monitors of our own.
//!
//! A test goes through [`explore`] with `shuttle`'s locks in place of the standard library's: it runs under some thousand
//! schedules, one thread at a time, with a choice at every lock. A schedule in which nobody can go on fails too. The seed is
//! printed where a test fails, and the variable `VMREWIND_TEST_SCHEDULE_SEED` sets it.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

const SEED: &str = "VMREWIND_TEST_SCHEDULE_SEED";
/// Schedules of each kind, unless time is over before.
const SCHEDULES: usize = 2000;
/// Longest time for the schedules of one kind.
const MAX_TIME: Duration = Duration::from_secs(1);
/// Changes of the thread that has precedence, in schedules of the second kind.
const CHANGES: usize = 3;
/// A test makes files, reads JSON and formats messages.
const STACK_BYTES: usize = 512 << 10;

/// Runs a test of one thread, which the locks need a scheduler for all the same.
pub fn alone(test: impl Fn() + Send + Sync + 'static) {
    run(RandomScheduler::new_from_seed(0, 1), Arc::new(test));
}

/// Runs a test under schedules in which every choice is drawn, and under those in which one thread goes on as long as it
/// can, which find what takes few switches at odd places.
///
/// # Panics
/// Where the test does, under any of them; where the variable is not a number.
pub fn explore(test: impl Fn() + Send + Sync + 'static) {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    let _told = OnPanic(seed);
    let test = Arc::new(test);
    run(RandomScheduler::new_from_seed(seed, SCHEDULES), Arc::clone(&test));
    run(PctScheduler::new_from_seed(seed, CHANGES, SCHEDULES), test);
}

fn run(scheduler: impl Scheduler + 'static, test: Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.max_time = Some(MAX_TIME);
    config.stack_size = STACK_BYTES;
    Runner::new(scheduler, config).run(move || test());
}

/// Tells the seed when it is dropped by a panic.
struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "a failing test reports to its terminal")]
            {
                eprintln!("again: {SEED}={}", self.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use shuttle::sync::Mutex;
    use shuttle::thread;

    use super::*;

    /// Guards the tests that use it: what goes wrong in one schedule of many is found, and what can't go wrong is not.
    #[test]
    fn a_race_is_found() {
        let adds = |in_one_step: bool| {
            move || {
                let number = Arc::new(Mutex::new(0));
                let other = Arc::clone(&number);
                let add = move |number: &Mutex<i32>| {
                    if in_one_step {
                        *number.lock().expect("no panic") += 1;
                    } else {
                        let read = *number.lock().expect("no panic");
                        *number.lock().expect("no panic") = read + 1;
                    }
                };
                let beside = thread::spawn(move || add(&other));
                add(&number);
                beside.join().expect("no panic");
                assert_eq!(*number.lock().expect("no panic"), 2);
            }
        };
        explore(adds(true));
        assert!(catch_unwind(|| explore(adds(false))).is_err());
    }
}
