//! Turns SIGINT, SIGTERM and SIGHUP into a request to stop.
//!
//! The engine looks at the request between steps and leaves the VM as it was. More of these signals change nothing: a
//! pause under way is always ended properly.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmrewind_engine::{Cancel, Error, Result};

/// Starts the thread that waits for signals.
///
/// # Errors
/// `Failed` where a handler or the thread can't be set up.
pub(crate) fn watch(cancel: &Cancel) -> Result<()> {
    let cannot = |error| Error::failed("cannot watch for signals").because(error);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(cannot)?;
    let cancel = cancel.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                tracing::info!(signal, "asked to stop");
                cancel.cancel();
            }
        })
        .map(drop)
        .map_err(cannot)
}
