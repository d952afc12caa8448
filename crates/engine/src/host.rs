//! What the engine is given by its caller: clock, randomness, the helper program, progress and cancellation.
//!
//! Nothing in the engine reads the time of day or makes an id by itself, so that tests can fix both.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// The present instant, UTC.
    fn now(&self) -> jiff::Timestamp;
}

/// Makes random bytes for ids.
pub trait Random: Send + Sync {
    /// Fills `bytes` with unpredictable ones.
    fn fill(&self, bytes: &mut [u8]);
}

/// How far a long piece of work is.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What is being done, for a person: `capturing memory`.
    pub what: &'a str,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes expected in all; work that sends pages again can pass it.
    pub total_bytes: u64,
}

/// Hears of progress; called at most some ten times a second, from the thread that does the work.
pub trait Progress: Send + Sync {
    /// The work has come this far.
    fn step(&self, step: Step<'_>);
    /// Something the user should know that is neither result nor error.
    fn note(&self, text: &str);
    /// The work is over, successfully or not; a progress bar can go.
    fn finished(&self);
}

/// A request to stop, set from a signal handler and looked at between steps.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Fails with kind `Interrupted` once the work should stop.
    ///
    /// # Errors
    /// `Interrupted`, naming `what` was going on.
    pub fn check(&self, what: &str) -> Result<()> {
        if self.is_cancelled() { Err(Error::interrupted(what)) } else { Ok(()) }
    }
}

/// Hears which step of an operation was just done. Nothing depends on it: tests use it to stop an operation there.
pub trait Steps: Send + Sync {
    /// The step of that name is done; the next has not begun.
    fn reached(&self, step: &'static str);
}

/// Everything ambient that the engine uses.
#[derive(Clone)]
pub struct Host {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// Hears of progress.
    pub progress: Arc<dyn Progress>,
    /// Set when the user wants to stop.
    pub cancel: Cancel,
    /// The program that is started as `HELPER guard ...` to watch over a pause: the binary `vmrewind`.
    pub helper: PathBuf,
    /// Hears of steps, in tests.
    pub steps: Option<Arc<dyn Steps>>,
}

impl Host {
    /// Tells that a step is done.
    pub(crate) fn reached(&self, step: &'static str) {
        if let Some(steps) = &self.steps {
            steps.reached(step);
        }
    }

    /// Tells of progress, and says whether to go on.
    pub(crate) fn step(&self, step: Step) -> ControlFlow<()> {
        self.progress.step(step);
        self.go_on()
    }

    /// Breaks off where the user wants to stop.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Makes `N` random bytes, written in lower-case hex.
    pub(crate) fn random_hex<const N: usize>(&self) -> String {
        let mut bytes = [0_u8; N];
        self.random.fill(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes a UUID.
    pub(crate) fn random_uuid(&self) -> String {
        let hex = self.random_hex::<16>();
        // Version 4, variant 1 (RFC 9562): the digits that say so are fixed.
        format!("{}-{}-4{}-a{}-{}", &hex[0..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
    }

    /// Makes a MAC address of those that QEMU's VMs have.
    pub(crate) fn random_mac(&self) -> String {
        let hex = self.random_hex::<3>();
        format!("52:54:00:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6])
    }
}
