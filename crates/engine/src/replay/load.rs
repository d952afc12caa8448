//! Loads a captured machine into a QEMU that was started to wait for one, eagerly: the guest can run afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use vmrewind_qemu::qmp::EventCursor;
use vmrewind_qemu::qmp::commands::MigrationStatus;

use crate::context::{Cancel, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::migration::forget_incoming;
use crate::monitor::Monitor;
use crate::replay::feed::Feed;
use crate::vm::run_folder::socket;
use crate::vm::spawn::{self, Started};

/// Feeds the machine to QEMU and waits until it has it.
///
/// # Errors
/// `Damaged` where the image is, `Interrupted`, `Failed` with QEMU's words where it does not take the state.
pub(crate) fn load(feed: &Feed<'_>, started: &Started) -> Result<()> {
    load_from(feed.ctx, started, |socket| feed.send(socket))
}

/// Has `send` write a state to QEMU's socket and waits until QEMU has it. Errors as of [`load`].
pub(crate) fn load_from(
    ctx: &Context,
    started: &Started,
    send: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let patience = ctx.host.patience;
    let socket = started.machine.run().join(socket::STREAM);
    let monitor = started.monitor()?;
    let mut events = monitor.events();
    monitor.prepare_incoming(&["events"])?;
    monitor.migrate_incoming(&socket)?;
    let sent = send(&socket);
    let _ = std::fs::remove_file(&socket);
    let loaded = sent.and_then(|()| wait_loaded(&mut events, &ctx.cancel, patience.load));
    if loaded.is_ok() {
        forget_incoming(monitor, started.machine.mark(), started.machine.run());
    }
    loaded.map_err(|error| {
        if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Damaged) {
            return error;
        }
        started.machine.wait_end(patience.last_words);
        let told = Error::failed("QEMU did not load the snapshot's state").because(error);
        spawn::with_last_words(told, started.machine.run())
    })
}

fn wait_loaded(events: &mut EventCursor, cancel: &Cancel, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match Monitor::next_migration_status(events, Duration::from_millis(50))? {
            Some(MigrationStatus::Completed) => return Ok(()),
            Some(MigrationStatus::Failed) => return Err(Error::failed("QEMU could not load the state")),
            _ => cancel.check("loading the snapshot's state")?,
        }
    }
    Err(Error::failed("QEMU did not load the state in time"))
}
