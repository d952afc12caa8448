//! Loads a captured machine into a QEMU that was started to wait for one, eagerly: the guest can run afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use vmrewind_qemu::qmp::EventCursor;
use vmrewind_qemu::qmp::commands::MigrationStatus;

use crate::context::{Cancel, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::replay::feed::Feed;
use crate::vm::run_folder::socket;
use crate::vm::spawn::{self, Started};

/// How long QEMU may take to make the last devices of a stream ready.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);
/// How long a QEMU that can't load a state may take to say why and end.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);

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
    let socket = started.process.run.join(socket::STREAM);
    let monitor = started.monitor()?;
    let mut events = monitor.events();
    monitor.prepare_incoming(&["events"])?;
    monitor.migrate_incoming(&socket)?;
    let sent = send(&socket);
    let _ = std::fs::remove_file(&socket);
    sent.and_then(|()| wait_loaded(&mut events, &ctx.cancel)).map_err(|error| {
        if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Damaged) {
            return error;
        }
        started.process.wait_end(LAST_WORDS_PATIENCE);
        let told = Error::failed("QEMU did not load the snapshot's state").because(error);
        spawn::with_last_words(told, &started.process.run)
    })
}

fn wait_loaded(events: &mut EventCursor, cancel: &Cancel) -> Result<()> {
    let deadline = Instant::now() + LOAD_PATIENCE;
    while Instant::now() < deadline {
        match Monitor::next_migration_status(events, Duration::from_millis(50))? {
            Some(MigrationStatus::Completed) => return Ok(()),
            Some(MigrationStatus::Failed) => return Err(Error::failed("QEMU could not load the state")),
            _ => cancel.check("loading the snapshot's state")?,
        }
    }
    Err(Error::failed("QEMU did not load the state in time"))
}
