//! Turns SIGINT, SIGTERM and SIGHUP into a request to stop.
//!
//! The engine looks at the request between steps and leaves the VM as it was. More of these signals change nothing: a
//! pause under way is always ended properly. Ctrl-Z and its like do nothing: a vmrewind that stands still within a pause
//! would leave the guest standing still too. For the same reason a terminal that stops background jobs that print does not
//! stop this one: it prints.

use std::io;
use std::process::{Child, Command};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGTTIN};
use signal_hook::iterator::Signals;
use vmrewind_engine::{Cancel, Error, Result};

/// Starts the thread that waits for signals; before any other, as those take over which signals are blocked.
///
/// # Errors
/// `Failed` where a handler or the thread can't be set up.
pub(crate) fn watch(cancel: &Cancel) -> Result<()> {
    let cannot = |error| Error::failed("cannot watch for signals").because(error);
    // Caught, it would come again for every attempt to write; blocked, the write succeeds.
    printing().thread_block().map_err(|error| cannot(error.into()))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGTTIN]).map_err(cannot)?;
    let cancel = cancel.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let asks_to_stop = |signal: &i32| [SIGINT, SIGTERM, SIGHUP].contains(signal);
            for signal in signals.forever().filter(asks_to_stop) {
                tracing::info!(signal, "asked to stop");
                cancel.cancel();
            }
        })
        .map(drop)
        .map_err(cannot)
}

/// Starts a program of the user's, with the signals blocked that were so before [`watch`].
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let unblocked = printing().thread_unblock();
    let child = command.spawn();
    if unblocked.is_ok() {
        let _ = printing().thread_block();
    }
    child
}

/// The signal for printing to a terminal from the background.
fn printing() -> SigSet {
    SigSet::from(Signal::SIGTTOU)
}
