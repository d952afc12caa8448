//! What callers and the reader thread share, once more, under schedules that are drawn by lot.
//!
//! A lost wake-up shows in one schedule of many, and the system always takes the same few. So `shared.rs` is compiled here
//! with `shuttle`'s locks for the standard library's, and its tests run under some thousand schedules each, one thread at
//! a time, with a choice at every lock. A schedule in which nobody can go on fails too. The seed is printed where a test
//! fails, and the variable `VMREWIND_TEST_SCHEDULE_SEED` sets it.
#![allow(dead_code, reason = "what only the rest of the client uses")]
#![allow(clippy::duplicate_mod, reason = "the same code with other locks")]

use super::{connection, events, transcript};

#[path = "shared.rs"]
mod shared;

/// In place of `super::sync`.
mod sync {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::Arc;
    pub(super) use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
    use shuttle::{Config, Runner};

    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use shuttle::thread;

    const SEED: &str = "VMREWIND_TEST_SCHEDULE_SEED";
    /// Schedules of each kind, unless time is over before.
    const SCHEDULES: usize = 2000;
    /// Longest time for the schedules of one kind.
    const MAX_TIME: Duration = Duration::from_secs(1);
    /// Changes of the thread that has precedence, in schedules of the second kind.
    const CHANGES: usize = 3;
    /// A test reads JSON.
    const STACK_BYTES: usize = 512 << 10;

    /// Runs a test under schedules in which every choice is drawn, and under those in which one thread goes on as long
    /// as it can, which find what takes few switches at odd places.
    pub(super) fn explore(test: impl Fn() + Send + Sync + 'static) {
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
}
