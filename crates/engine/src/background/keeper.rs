//! Sees to it that somebody works on a job while a command waits for what it does.
//!
//! A command that talks to a QEMU waits for its main loop, say, and that can wait for a page of its memory. Where all processes
//! that give it this were killed, nobody but this command would start them again.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Charge, Job, under_way};
use crate::error::{Context, Result};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A thread that looks after a VM's job until this is dropped.
pub(crate) struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins to look, at a VM whose lock is held.
    ///
    /// # Errors
    /// Where there is no thread for it.
    pub(crate) fn begin<J: Job>(charge: &Charge) -> Result<Self> {
        let (stop, stopped) = channel();
        let charge = charge.clone();
        let look = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = look_after::<J>(&charge) {
                    tracing::info!("{error}: {}", error.causes().join(": "));
                }
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

fn look_after<J: Job>(charge: &Charge) -> Result<()> {
    if under_way::<J>(&charge.folder)?.is_some() {
        charge.revive::<J>()?;
    }
    Ok(())
}
