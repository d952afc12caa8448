//! Turns SIGINT, SIGTERM and SIGHUP into a request to stop.
//!
//! The engine looks at the request between steps and leaves the VM as it was. More of these signals change nothing: a
//! pause under way is always ended properly. Ctrl-Z and its like do nothing: a vmrewind that stands still within a pause
//! would leave the guest standing still too. For the same reason the terminal does not stop it in the background: what it
//! prints is printed, and a question gets no answer but an error.

use std::io;
use std::process::{Child, Command};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use vmrewind_engine::{Cancel, Error, Result};

/// Starts the thread that waits for signals; before any other, as those take over which signals are blocked.
///
/// # Errors
/// `Failed` where a handler or the thread can't be set up.
pub(crate) fn watch(cancel: &Cancel) -> Result<()> {
    let cannot = |error| Error::failed("cannot watch for signals").because(error);
    // Caught, they would come again for every attempt to write or read; blocked, the write succeeds and the read fails.
    of_terminal().thread_block().map_err(|error| cannot(error.into()))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGTSTP]).map_err(cannot)?;
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

/// Starts a program of the user's, which its terminal can stop.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let unblocked = of_terminal().thread_unblock();
    let child = command.spawn();
    if unblocked.is_ok() {
        let _ = of_terminal().thread_block();
    }
    child
}

/// The signals for using a terminal from the background.
fn of_terminal() -> SigSet {
    SigSet::from_iter([Signal::SIGTTIN, Signal::SIGTTOU])
}
