//! Another source for a QEMU that lost the one of its memory, even where its main loop waits for a page of it.
//!
//! The main loop touches the guest's memory too: a device's queue, say. While it waits for a page nobody serves, no
//! monitor takes a new client. So an out-of-band monitor is negotiated before the guest's memory is left to a page
//! server, and any later server uses it: nobody has to hold it.

use std::path::Path;
use std::time::Duration;

use vmrewind_qemu::qmp::commands::MigrateRecover;
use vmrewind_qemu::qmp::{OutOfBandClient, QmpError};

use crate::error::Result;
use crate::monitor::{connection_id, qmp_error};
use crate::root::VmFolder;
use crate::vm::run_folder::{self, RECOVERY_PIPES};

/// How long QEMU may take to answer out of band: nothing but the machine's load delays it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a QEMU that has just started ready to be recovered whatever becomes of it.
pub(crate) fn arrange(run: &Path) -> Result<()> {
    open(run, PATIENCE)?.negotiate(PATIENCE).map_err(qmp_error)
}

fn open(run: &Path, patience: Duration) -> Result<OutOfBandClient> {
    OutOfBandClient::open(&run.join(RECOVERY_PIPES), connection_id(), patience).map_err(qmp_error)
}

/// What QEMU said when it was to listen for another source.
pub(super) enum Answer {
    /// It does, or does already since a server that died right after had asked it to.
    Listens,
    /// It did not lose its source, or has not noticed yet.
    NotNow,
}

/// Has a QEMU that lost the source of its memory listen for another one on `socket`.
pub(super) fn recover(run: &Path, socket: &Path) -> Result<Answer> {
    let command = MigrateRecover { uri: format!("unix:{}", socket.display()) };
    match open(run, PATIENCE)?.execute(&command, PATIENCE) {
        Ok(_) => Ok(Answer::Listens),
        // The words of QEMU 7.2; later ones listen anew.
        Err(QmpError::Refused { source, .. }) if source.desc.contains("triggered already") => {
            Ok(Answer::Listens)
        }
        Err(QmpError::Refused { .. }) => Ok(Answer::NotNow),
        Err(error) => Err(qmp_error(error)),
    }
}

/// Reads the events that no page server has read: QEMU keeps them for ever.
pub(super) fn forget_events(folder: &VmFolder) {
    if let Some(run) = run_folder::existing(folder)
        && let Ok(mut client) = open(&run, Duration::ZERO)
    {
        // Only QEMU's memory is at stake, and the next command tries again.
        let _ = client.drain();
    }
}
