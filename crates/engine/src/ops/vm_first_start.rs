//! The first start of a clone of a live snapshot: its guest goes on where that of the snapshot was.
//!
//! ```text
//!  memory file there, or made                       flat/
//!  journal Prepare(undo)  QEMU started, memory mapped, rest of the state loaded, guest waits, links unplugged
//!  journal Commit(redo)   <- the commit point
//!  vm.json: started once; guest runs; journal gone
//! ```
//! The memory fits the disks only as long as nobody has written to them. So that this was the first start is durable
//! before the guest runs, and every later one boots. Before the commit point a failure ends the QEMU; nothing was
//! written to the disks then, and the start can be tried again.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use crate::engine::{HeldVm, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::flat::{Flat, NotShared};
use crate::hint::Hint;
use crate::images::{image_id, store_error};
use crate::machine_image;
use crate::ops::guest::Resumed;
use crate::ops::vm_start::{StartReport, VmStart};
use crate::record::journal::{Cause, RedoPlan, UndoPlan};
use crate::record::snapshot::milliseconds;
use crate::record::vm::FirstStart;
use crate::replay::feed::{Feed, fresh_memory};
use crate::replay::load::{load, load_from};
use crate::root::file::io_error;
use crate::view::clone::StartMode;
use crate::vm::spawn::{Purpose, Started};

/// The journal's name of this operation.
const OPERATION: &str = "vm start";

impl Operation {
    /// Starts a clone from its snapshot's memory. The VM is off, and was never started.
    pub(crate) fn start_warm(
        &self,
        held: &HeldVm,
        first: &FirstStart,
        how: VmStart,
        begun: Instant,
    ) -> Result<StartReport> {
        let cold = Hint::BootCloneCold { vm: held.record.name.to_string() };
        let flat = self
            .memory_file(&first.image, &held.record.hardware)
            .map_err(|error| if error.hint().is_none() { error.with_hint(cold) } else { error })?;
        let undo = UndoPlan {
            cause: Cause::Restore,
            overlays: Vec::new(),
            image: None,
            qemu: None,
            guest_ran: false,
            migration: None,
            successor: None,
        };
        let ledger = self.ledger(&held.folder);
        ledger.prepare(OPERATION, &undo)?;
        let run = first.guest_running && !how.paused;
        let came_up = self.bring_up(held, first, flat.as_ref().ok());
        self.ctx.work_ended();
        let decided = came_up.and_then(|(mut started, links_down)| {
            // Letting the guest run is part of what the commit carries out, on a connection of its own.
            started.disconnect();
            let mut record = held.record.clone();
            record.first_start = None;
            ledger.commit(OPERATION, &RedoPlan { resume: run, ..RedoPlan::of(record) })?;
            Ok((started, links_down))
        });
        let (started, links_down) = match decided {
            Ok(decided) => decided,
            Err(error) if !ledger.may_be_undone() => return Err(error.with_kind(ErrorKind::Partial)),
            Err(error) => {
                return Err(match ledger.undo(OPERATION, &undo) {
                    Ok(()) => error,
                    Err(second) => error
                        .with_hint(Hint::UndoFailed { error: second.to_string() })
                        .with_kind(ErrorKind::Partial),
                });
            }
        };
        tracing::info!(vm = %held.record.name, pid = started.machine.mark().pid, "started from memory");
        let start_ms = run.then(|| milliseconds(begun.elapsed()));
        let guest = Resumed {
            name: &held.record.name,
            hardware: &held.record.hardware,
            machine: &*started.machine,
            runs: run,
        };
        let (clock, clock_note) = self.bring_clock_up(&guest);
        let memory_shared = flat.is_ok();
        let mut notes = notes(flat.err());
        notes.extend(clock_note);
        Ok(StartReport {
            mode: StartMode::Warm,
            memory_shared,
            links_down,
            start_ms,
            clock: Some(clock),
            notes,
        })
    }

    /// Starts QEMU, loads the state and unplugs the links. The guest waits.
    fn bring_up(
        &self,
        held: &HeldVm,
        first: &FirstStart,
        flat: Option<&Flat>,
    ) -> Result<(Started, Vec<String>)> {
        let started = self.spawn(held, flat, Purpose::Incoming)?;
        self.ctx.reached("qemu-started");
        match flat {
            Some(flat) => load_from(&self.ctx, &started, |socket| send_file(&flat.state(), socket))?,
            None => self.load_own(held, first, &started)?,
        }
        self.ctx.reached("state-loaded");
        let monitor = started.monitor()?;
        let links = if first.link_up { Vec::new() } else { monitor.network_devices()? };
        for link in &links {
            monitor.set_link(link, false)?;
        }
        Ok((started, links))
    }

    /// Loads all memory into the clone's own.
    fn load_own(&self, held: &HeldVm, first: &FirstStart, started: &Started) -> Result<()> {
        let reader = self
            .store
            .open_image(&image_id(&first.image)?)
            .map_err(|error| store_error("cannot read the snapshot's memory", error))?;
        let captured = machine_image::captured(&reader)?;
        let feed = Feed {
            ctx: &self.ctx,
            image: &reader,
            captured: &captured,
            present: None,
            fresh_memory: fresh_memory(&held.record.hardware),
        };
        load(&feed, started)
    }
}

/// Sends a file to QEMU's socket.
fn send_file(path: &Path, socket: &Path) -> Result<()> {
    let mut file =
        File::open(path).map_err(|error| io_error(&format!("cannot read '{}'", path.display()), error))?;
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| io_error(&format!("cannot reach QEMU on '{}'", socket.display()), error))?;
    io::copy(&mut file, &mut stream)
        .map(drop)
        .map_err(|error| Error::failed("QEMU does not take the machine's state").because(error))
}

fn notes(not_shared: Option<NotShared>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(NotShared(why)) = not_shared {
        notes.push(format!("the memory is not shared with other clones: {why}"));
    }
    notes
}

#[cfg(test)]
mod tests;
