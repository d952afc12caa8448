//! The real clock and randomness, handed to the engine.
//!
//! For hermetic tests, `VMREWIND_TEST_CLOCK` (RFC 3339) fixes the time and `VMREWIND_TEST_SEED` the random bytes; two
//! commands on one root must be given different seeds, or they make the same ids. `VMREWIND_TEST_STOP_AT` names steps of
//! operations (comma between them) at which the process stops itself, once at each, so that a test can kill it, or QEMU, right there.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use vmrewind_engine::{Clock, Error, Random, Result, Steps};

/// The clock: the system's, or the fixed one of a test.
///
/// # Errors
/// `Usage` for a fixed time that can't be read.
pub(crate) fn clock() -> Result<Arc<dyn Clock>> {
    let Ok(text) = std::env::var("VMREWIND_TEST_CLOCK") else { return Ok(Arc::new(SystemClock)) };
    let time = text.parse::<Timestamp>().map_err(|error| {
        Error::usage(format!("VMREWIND_TEST_CLOCK is '{}', not a time", text.escape_debug())).because(error)
    })?;
    Ok(Arc::new(FixedClock(time)))
}

/// The randomness: the kernel's, or the seeded one of a test.
///
/// # Errors
/// `Failed` where the kernel gives none.
pub(crate) fn random() -> Result<Arc<dyn Random>> {
    if let Ok(seed) = std::env::var("VMREWIND_TEST_SEED") {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        return Ok(Arc::new(SeededRandom(Mutex::new(hasher.finish()))));
    }
    let mut seed = [0_u8; 8];
    fill(&mut seed).map_err(|error| Error::failed("the kernel gives no random bytes").because(error))?;
    Ok(Arc::new(SystemRandom { fallback: SeededRandom(Mutex::new(u64::from_le_bytes(seed))) }))
}

/// The steps at which a test wants the process to stop itself, if any.
pub(crate) fn steps() -> Option<Arc<dyn Steps>> {
    let wanted = std::env::var("VMREWIND_TEST_STOP_AT").ok()?;
    Some(Arc::new(StopAt(Mutex::new(wanted.split(',').map(str::to_owned).collect()))))
}

/// The steps that were not reached yet: what is tried again after a death is not stopped again.
struct StopAt(Mutex<Vec<String>>);

impl Steps for StopAt {
    fn reached(&self, step: &'static str) {
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.len();
        wanted.retain(|wanted| wanted != step);
        if wanted.len() < before {
            // To this thread, which can't go on then: sent to the process, the main thread would take it, when it comes to that.
            // Where it can't be stopped the test that wanted it waits in vain and says so.
            let _ = pthread_kill(pthread_self(), Signal::SIGSTOP);
        }
    }
}

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the place from which time is passed in")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        monotonic()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The time of day stands; deadlines are real, for QEMU's work is.
struct FixedClock(Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        monotonic()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The time since the process first asked for it.
fn monotonic() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed()
}

/// The kernel's randomness. It was seen to work at the start and can't fail later on Linux; should it do so all the
/// same, ids come from what it gave then.
struct SystemRandom {
    fallback: SeededRandom,
}

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        if fill(bytes).is_err() {
            self.fallback.fill(bytes);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the place from which randomness is passed in")]
fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}

/// SplitMix64 (Steele, Lea, Flood 2014): good enough for ids of tests.
struct SeededRandom(Mutex<u64>);

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids of one command must differ, and be the same again for the same seed.
    #[test]
    fn seeded_bytes_differ_and_repeat() {
        let take = |random: &SeededRandom| {
            let mut bytes = [0; 12];
            random.fill(&mut bytes);
            bytes
        };
        let (one, other) = (SeededRandom(Mutex::new(7)), SeededRandom(Mutex::new(7)));
        let first = take(&one);
        assert_ne!(first, take(&one));
        assert_eq!(first, take(&other));
    }
}
