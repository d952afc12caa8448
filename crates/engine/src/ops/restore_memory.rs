//! The new QEMU of a restore and its memory: lazily where the host can, else eagerly, saying why.
//!
//! ```text
//!  lazy: page server begun -> QEMU started -> postcopy accepted -> devices loaded: the guest could run
//!          |                    |              '-- refused: the same QEMU is filled eagerly
//!          |                    '-- ended before that, or its server died: again, then eagerly
//!          '-- the image can't be read: the restore fails
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vmrewind_qemu::qmp::commands::{MigrationStatus, RunState};
use vmrewind_qemu::stream::Captured;
use vmrewind_store::ImageReader;

use crate::background::Keeper;
use crate::capture::guard::Guard;
use crate::engine::{Held, Operation};
use crate::error::{Error, Result};
use crate::lazy::{self, Server, recovery};
use crate::monitor::Monitor;
use crate::ops::launch::{Chains, Start};
use crate::record::snapshot::Manifest;
use crate::replay::feed::{Feed, fresh_memory};
use crate::replay::load::load;
use crate::root::VmFolder;
use crate::view::RestoreMode;
use crate::vm::process::Process;
use crate::vm::run_folder::socket;
use crate::vm::spawn::{self, Purpose, Started};

/// How often a lazy restore begins anew where its server or QEMU died before the guest could run.
const LAZY_ATTEMPTS: u32 = 3;
/// How often it is asked whether it has.
const ASK_EVERY: Duration = Duration::from_micros(500);

/// A QEMU to be started for a restore.
pub(super) struct Target<'a> {
    /// The VM.
    pub(super) held: &'a Held,
    /// Its folder, with the seat that the QEMU is started on.
    pub(super) folder: &'a VmFolder,
    /// The ports of the VM's QEMU, where that runs on meanwhile.
    pub(super) beside: Option<BTreeMap<u16, u16>>,
    /// What comes back.
    pub(super) snapshot: &'a Manifest,
    /// Each disk's layers.
    pub(super) chains: &'a Chains,
    /// Whether its guest is to run.
    pub(super) run: bool,
}

/// The memory of a snapshot.
pub(super) struct Memory {
    /// Its pages.
    pub(super) image: ImageReader,
    /// Everything else.
    pub(super) captured: Captured,
}

/// A QEMU whose guest can run.
pub(super) struct Brought {
    /// The process.
    pub(super) started: Started,
    /// A guard that gets ready meanwhile, where the guest is to run.
    pub(super) guard: Option<Guard>,
    /// How its memory came, or comes.
    pub(super) mode: RestoreMode,
    /// Why not as it was meant.
    pub(super) note: Option<String>,
    /// Sees to it that its memory goes on coming while this is held.
    _keeper: Option<Keeper>,
}

/// A QEMU that answers, and the guard that will watch over its first step.
struct Launched {
    started: Started,
    guard: Option<Guard>,
    keeper: Option<Keeper>,
}

impl Launched {
    fn brought(self, mode: RestoreMode, note: Option<String>) -> Brought {
        let Self { started, guard, keeper } = self;
        Brought { started, guard, mode, note, _keeper: keeper }
    }
}

/// Why a lazy restore did not get to where the guest can run.
enum Miss {
    /// This QEMU, which waits, does not do it.
    Refused(Box<Launched>, Error),
    /// QEMU or its server died.
    Lost(Error),
    /// No other try would be better.
    Final(Error),
}

impl Miss {
    fn why(&self) -> &Error {
        let (Self::Refused(_, why) | Self::Lost(why) | Self::Final(why)) = self;
        why
    }
}

impl Operation {
    /// Starts a QEMU that boots its guest when told to.
    pub(super) fn bring_cold(&self, target: &Target<'_>) -> Result<Brought> {
        let launched = self.launch(target, Purpose::BootPaused)?;
        self.ctx.reached("qemu-started");
        Ok(launched.brought(RestoreMode::Cold, None))
    }

    /// Starts a QEMU and gives it its memory, lazily with `lazy`. The guest waits.
    ///
    /// # Errors
    /// `Damaged` where the image is, `Interrupted`, `Failed` with QEMU's words.
    pub(super) fn bring_memory(&self, target: &Target<'_>, memory: &Memory, lazy: bool) -> Result<Brought> {
        let mut why = None;
        let mut waiting = None;
        for _ in 0..if lazy { LAZY_ATTEMPTS } else { 0 } {
            match self.load_lazily(target) {
                Ok(launched) => return Ok(launched.brought(RestoreMode::Lazy, None)),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::Refused(launched, error)) => {
                    (waiting, why) = (Some(launched), Some(error));
                    break;
                }
                Err(Miss::Lost(error)) => {
                    tracing::info!("{error}: {}", error.causes().join(": "));
                    why = Some(error);
                }
            }
        }
        let launched = match waiting {
            Some(launched) => *launched,
            None => self.launch(target, Purpose::Incoming)?,
        };
        self.ctx.reached("qemu-started");
        let feed = Feed {
            ctx: &self.ctx,
            image: &memory.image,
            captured: &memory.captured,
            present: None,
            fresh_memory: fresh_memory(&target.snapshot.hardware),
        };
        load(&feed, &launched.started)?;
        Ok(launched.brought(RestoreMode::Eager, why.map(|error| why_eager(&error))))
    }

    /// Starts a QEMU and its page server, and waits until the guest can run.
    fn load_lazily(&self, target: &Target<'_>) -> Result<Launched, Miss> {
        let folder = target.folder;
        let charge = self.charge(&target.held.record.name, folder);
        let begin = || {
            lazy::end(folder)?;
            Server::begin(&charge, target.snapshot)
        };
        let mut server = begin().map_err(Miss::Final)?;
        let prepared = self.launch(target, Purpose::Incoming).and_then(|mut launched| {
            self.ctx.reached("qemu-started");
            let mark = launched.started.machine.mark();
            launched.keeper = Some(server.is_for(mark, &charge)?);
            Ok(launched)
        });
        let given_up = |server: Server, miss: Miss| match server.give_up(folder, miss.why()) {
            Ok(()) => miss,
            Err(error) => Miss::Final(error),
        };
        let mut launched = match prepared {
            Ok(launched) => launched,
            Err(error) => return Err(given_up(server, Miss::Final(error))),
        };
        let started = &launched.started;
        match self.feed_lazily(target, started, &mut server) {
            Ok(()) => Ok(launched),
            Err(Fed::Refused(error)) => {
                launched.keeper = None;
                Err(given_up(server, Miss::Refused(Box::new(launched), error)))
            }
            Err(Fed::Lost(error)) => {
                let error = spawn::with_last_words(error, started.machine.run());
                let ended = started.machine.kill().and_then(|()| Process::forget(folder));
                let miss = given_up(server, Miss::Lost(error));
                Err(ended.map_or_else(Miss::Final, |()| miss))
            }
            Err(Fed::Final(error)) => Err(Miss::Final(error)),
        }
    }

    fn feed_lazily(&self, target: &Target<'_>, started: &Started, server: &mut Server) -> Result<(), Fed> {
        let monitor = started.monitor().map_err(Fed::Final)?;
        let refused = |error| if monitor.is_gone() { Fed::Lost(error) } else { Fed::Refused(error) };
        monitor.prepare_incoming(&["events", "postcopy-ram"]).map_err(refused)?;
        recovery::arrange(started.machine.run()).map_err(refused)?;
        let path = started.machine.run().join(socket::LAZY);
        let _ = std::fs::remove_file(&path);
        monitor.migrate_incoming(&path).map_err(refused)?;
        let deadline = Instant::now() + self.ctx.host.patience.load;
        loop {
            match monitor.status() {
                Ok(RunState::Inmigrate) if server.is_alive(target.folder).map_err(Fed::Final)? => {}
                Ok(RunState::Inmigrate) => {
                    let gone = Error::failed("the process that serves the guest's memory ended");
                    return Err(self.server_failure(target).map_or(Fed::Lost(gone), Fed::Final));
                }
                Ok(_) => {
                    still_served(monitor).map_err(Fed::Lost)?;
                    return server.is_loaded(target.folder).map_err(Fed::Final);
                }
                Err(error) => {
                    started.machine.wait_end(self.ctx.host.patience.last_words);
                    return Err(self.server_failure(target).map_or(Fed::Lost(error), Fed::Final));
                }
            }
            self.check_cancel("loading the snapshot's state").map_err(Fed::Final)?;
            if Instant::now() >= deadline {
                return Err(Fed::Lost(Error::failed("QEMU did not load its devices in time")));
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Why the server ended QEMU, if it did.
    fn server_failure(&self, target: &Target<'_>) -> Option<Error> {
        let (_, failure) = lazy::failure(target.folder)?;
        let what = format!("the memory of snapshot '{}' can't be read", target.snapshot.name);
        Some(Error::new(failure.kind(), what).because(Error::failed(failure.message)))
    }

    fn launch(&self, target: &Target<'_>, purpose: Purpose) -> Result<Launched> {
        let started = self.launch_vm(Start {
            folder: target.folder,
            record: &target.held.record,
            hardware: &target.snapshot.hardware,
            chains: target.chains,
            flat: None,
            purpose,
            beside: target.beside.clone(),
        })?;
        let guard = target.run.then(|| Guard::begin(&self.ctx, target.folder)).transpose()?;
        Ok(Launched { started, guard, keeper: None })
    }
}

/// Makes sure of a QEMU that says it has left the incoming state: one that lost its source meanwhile gives up its
/// migration, finds zeros where its devices' memory should be, and ends.
fn still_served(monitor: &Monitor) -> Result<()> {
    match monitor.migration()?.status {
        Some(MigrationStatus::Failed | MigrationStatus::Cancelled) => {
            Err(Error::failed("QEMU lost the source of its memory while it loaded its devices"))
        }
        _ => Ok(()),
    }
}

/// How feeding a QEMU lazily went wrong.
enum Fed {
    /// QEMU said no, and waits on.
    Refused(Error),
    /// QEMU is gone, or of no use.
    Lost(Error),
    /// The image, or the user.
    Final(Error),
}

fn why_eager(error: &Error) -> String {
    format!(
        "all memory was loaded before the guest ran: a lazy restore is not possible here ({})",
        error.in_one_line()
    )
}

#[cfg(test)]
mod tests;
