//! Sees to it that a QEMU is served while a command works on it.
//!
//! A command that talks to a QEMU waits for its main loop, and that can wait for a page. Where both servers were killed
//! nobody but this command would start them again.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Charge, under_way};
use crate::error::{Context, Result};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A thread that looks after a VM's page servers until this is dropped.
pub(crate) struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins to look, at a VM whose lock is held.
    pub(super) fn begin(charge: &Charge) -> Result<Self> {
        let (stop, stopped) = channel();
        let charge = charge.clone();
        let look = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                look_after(&charge);
            }
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(look);
        let thread = thread.context(|| "cannot start a thread".into())?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look_after(charge: &Charge) {
    if under_way(&charge.folder).is_some()
        && let Err(error) = charge.revive()
    {
        tracing::info!("{error}: {}", error.causes().join(": "));
    }
}
