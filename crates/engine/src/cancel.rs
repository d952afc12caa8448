//! A request to stop, which work looks at where stopping is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

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
