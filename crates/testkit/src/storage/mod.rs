//! Storages that behave as badly as the contract of [`vmrewind_store::Storage`] allows.
//!
//! [`CrashStorage`] loses power at a chosen operation and shows what a disk may hold afterwards; [`FaultStorage`] lets a
//! chosen operation fail. Both count the operations that change something, so that a test can try every one of them.

mod crash;
mod disk;
mod fault;

use std::fmt;
use std::ops::Range;

pub use crash::CrashStorage;
pub use fault::{FaultStorage, Operation};

/// Holds the one seed of crash tests that is to be tried.
const CRASH_SEED: &str = "VMREWIND_TEST_CRASH_SEED";

/// Seeds to try: `0..count`, or only the one in the environment variable `VMREWIND_TEST_CRASH_SEED`, to see a failure again.
///
/// # Panics
/// Where the variable is not a number.
#[track_caller]
pub fn crash_seeds(count: u64) -> Range<u64> {
    match std::env::var(CRASH_SEED) {
        Ok(text) => match text.parse::<u64>() {
            Ok(seed) => seed..seed.saturating_add(1),
            Err(error) => panic!("{CRASH_SEED}={text}: {error}"),
        },
        Err(_) => 0..count,
    }
}

/// One crash that is looked at; where that panics it says how to see it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashCase {
    /// Number of the operation at which the power failed.
    pub operation: u64,
    /// What determined which writes were lost.
    pub seed: u64,
}

impl fmt::Display for CrashCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrashCase { operation, seed } = self;
        write!(f, "operation {operation}, seed {seed} (again: {CRASH_SEED}={seed})")
    }
}

/// Tells of the case when it is dropped by a panic.
#[derive(Debug)]
pub struct OnPanic(pub CrashCase);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "a failing test reports to its terminal")]
            {
                eprintln!("{}", self.0);
            }
        }
    }
}

/// Pseudo-random numbers that a seed determines (splitmix64).
#[derive(Debug, Clone)]
pub struct SeededRandom {
    state: u64,
}

impl SeededRandom {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom { state: seed }
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Tosses a coin.
    pub fn coin(&mut self) -> bool {
        self.next_u64().is_multiple_of(2)
    }
}
