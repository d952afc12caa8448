//! Brings a snapshot back: new layers on its frozen ones, a new QEMU with the captured hardware, its memory fed in.
//!
//! ```text
//!  snapshot, chain, bases and memory image are looked at
//!  journal Prepare(undo)  new layers made -> new QEMU started on a seat of its own, state loaded, guest waits
//!                         old guest stopped, its disks made durable
//!  journal Commit(redo)   <- the commit point
//!  the new QEMU is the VM; guest runs; undo point and vm.json written; old QEMU ended; journal gone
//! ```
//! Whatever fails before the commit point, the old guest goes on as if nothing had been. While it stands still, and while
//! the new one waits, a guard each lets the right one go if this process dies. Where both QEMUs can't be there at once
//! ([`order`]), the old one ends first, and a failure after that leaves the VM stopped, its disks as they were.

mod bring;
mod decide;
mod order;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use vmrewind_store::ImageReader;

use crate::capture::guard::Guard;
use crate::context::Work;
use crate::engine::{Held, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::identity;
use crate::ids::{Address, LayerId, SnapshotId};
use crate::images::image_id;
use crate::images::store_error;
use crate::layers::ahead::SyncAhead;
use crate::layers::{base, overlay};
use crate::lazy;
use crate::machine_image::captured;
use crate::monitor::is_running;
use crate::ops::guest::Resumed;
use crate::ops::restore_memory::{Brought, Memory};
use crate::ops::vm_state;
use crate::record::journal::{Cause, Overlay, Succession, UndoPlan};
use crate::record::snapshot::{Grade, Manifest};
use crate::root::VmFolder;
use crate::root::file::allocated_bytes;
use crate::view::restore::{RestoreOrder, RestorePlanView};
use crate::view::{RestoreMode, RestoreView};
use crate::vm::machine::{Machine, Use};
use crate::vm::ports::ports_in_use;
use crate::vm::{run_folder, spawn};
use order::Order;

/// The journal's name of this operation.
const OPERATION: &str = "snapshot restore";

/// A request to bring a snapshot back.
#[derive(Debug, Clone)]
pub struct SnapshotRestore {
    /// Which.
    pub address: Address,
    /// Only if that is the snapshot with this id: names can be given to others.
    pub only_id: Option<SnapshotId>,
    /// Leave the guest paused.
    pub paused: bool,
    /// Load all memory before the guest runs.
    pub eager: bool,
    /// Do not keep the disks as they are now.
    pub discard_current: bool,
}

/// What the VM was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Its guest ran.
    Running,
    /// Its guest stood still.
    Paused,
    /// Its QEMU does not say.
    Silent,
    /// There was no QEMU.
    Off,
}

/// What is decided before anything is done.
struct Plan {
    snapshot: Manifest,
    overlays: Vec<Overlay>,
    /// How it is meant to come back; a host can refuse `lazy`.
    mode: RestoreMode,
    /// Whether a QEMU is to be there afterwards.
    start: bool,
    /// Whether the guest is to run then.
    run: bool,
}

/// The VM as it is found.
struct Before {
    machine: Option<Arc<dyn Machine>>,
    guest: Old,
    order: Order,
}

impl Before {
    /// The QEMU that lives until the restore is decided.
    fn stays(&self) -> Option<&dyn Machine> {
        let stays = matches!(self.order, Order::Beside { .. } | Order::Nothing { .. });
        self.machine.as_deref().filter(|_| stays)
    }

    /// What is to take whose place.
    fn succession(&self, new: Option<&Brought>) -> Option<Succession> {
        let old = self.stays()?.mark();
        match &self.order {
            Order::Beside { old_seat, seat, .. } => {
                let later = new.map(|new| new.started.later.clone()).unwrap_or_default();
                Some(Succession { old, old_seat: *old_seat, seat: Some(*seat), later })
            }
            Order::Nothing { old_seat } => {
                Some(Succession { old, old_seat: *old_seat, seat: None, later: Vec::new() })
            }
            Order::Off | Order::EndFirst { .. } => None,
        }
    }
}

/// What a restore has made before it is decided.
#[derive(Default)]
struct Made {
    brought: Option<Brought>,
    /// Lets the old guest go on if this process dies before that.
    old_guard: Option<Guard>,
    /// Layers that are abandoned, on their way to the disk.
    synced: Vec<SyncAhead>,
}

impl Made {
    /// Whether the abandoned layers are durable. Asked whatever came of the rest: the kernel gives this answer once.
    fn synced(&mut self) -> Result<()> {
        let all: Vec<Result<()>> = self.synced.drain(..).map(SyncAhead::finish).collect();
        all.into_iter().collect::<Result<()>>().map_err(|error| {
            error.while_doing("the disks as they were before the restore can't be kept as an undo point")
        })
    }
}

impl Operation {
    /// Brings a snapshot back. The VM may run; any snapshot can be restored, any number of times.
    ///
    /// # Errors
    /// `NotFound`, `Busy`; `Damaged` or `Refused` where the snapshot or its base can't be used; `Failed` where the new state
    /// did not come up: the VM goes on as it was. `Partial` where it had to be ended first: it is stopped then, its disks as
    /// they were.
    pub fn snapshot_restore(&self, request: &SnapshotRestore) -> Result<RestoreView> {
        let held = self.hold(&request.address.vm)?;
        let plan = self.plan_restore(request, &held)?;
        let before = self.look_before(&plan, &held)?;
        // Read whole where a guest is given up for it.
        let is_given_up = matches!(before.order, Order::EndFirst { .. });
        let memory = self.open_memory(&plan, is_given_up && plan.mode == RestoreMode::Eager)?;
        let undo_plan = UndoPlan {
            overlays: plan.overlays.clone(),
            cause: Cause::Restore,
            image: None,
            qemu: before.machine.as_ref().map(|machine| machine.mark()),
            // One that can't be asked is taken for running: it will be wanted to run again.
            guest_ran: matches!(before.guest, Old::Running | Old::Silent),
            migration: None,
            successor: before.order.successor(&plan),
        };
        self.ledger(&held.folder).prepare(OPERATION, &undo_plan)?;
        let mut made = Made::default();
        let done = self
            .bring(&held, &plan, &before, memory.as_ref(), &mut made)
            .and_then(|()| self.settle(request, &held, &plan, &before, &mut made));
        self.ctx.work_ended();
        let _ = made.synced();
        match done {
            Ok(undo) => self.report(&held, &plan, made.brought.take(), undo),
            Err(error) => {
                // What was brought up is ended by that.
                drop(made);
                Err(self.undo_restore(&held, &undo_plan, error))
            }
        }
    }

    /// What a restore would do. Nothing is done, but for what a dead command left on the VM.
    ///
    /// # Errors
    /// As of [`Operation::snapshot_restore`] where that would refuse.
    pub fn snapshot_restore_plan(&self, request: &SnapshotRestore) -> Result<RestorePlanView> {
        let held = self.hold(&request.address.vm)?;
        let plan = self.plan_restore(request, &held)?;
        let before = self.look_before(&plan, &held)?;
        let order = match &before.order {
            Order::Off => RestoreOrder::NothingRuns,
            Order::Beside { .. } => RestoreOrder::StartThenEnd,
            Order::Nothing { .. } => RestoreOrder::EndOnly,
            Order::EndFirst { .. } => RestoreOrder::EndThenStart,
        };
        let why = if let Order::EndFirst { why, .. } = before.order { Some(why) } else { None };
        let left = decide::abandoned(request, &held, &plan)?;
        let bytes = |layer: &Overlay| allocated_bytes(&held.folder.layer(&layer.disk, &layer.layer));
        Ok(RestorePlanView {
            vm: held.record.name.to_string(),
            snapshot: plan.snapshot.name.to_string(),
            mode: plan.mode,
            runs_after: plan.run,
            ends_pid: before.machine.as_ref().map(|machine| machine.mark().pid),
            order,
            why,
            keeps_undo: left.is_kept,
            abandoned_bytes: left.layers.iter().map(bytes).sum(),
        })
    }

    fn look_before(&self, plan: &Plan, held: &Held) -> Result<Before> {
        let machine = self.ctx.machines().find(&held.folder)?;
        let guest = machine.as_ref().map_or(Old::Off, |old| guest_of(&**old));
        let order = self.order_of(plan, held, guest)?;
        Ok(Before { machine, guest, order })
    }

    fn plan_restore(&self, request: &SnapshotRestore, held: &Held) -> Result<Plan> {
        let (name, only_id) = (&request.address.snapshot, request.only_id.as_ref());
        let mut snapshot = held.snapshots.by_name_if(&held.record, name, only_id)?.clone();
        snapshot.hardware = identity::renewed(&self.ctx.host, &snapshot.hardware)?;
        base::check_all_unchanged(&held.record)?;
        overlay::check_room(&held.folder)?;
        let mut overlays = Vec::new();
        for frozen in &snapshot.disks {
            let doing = || format!("snapshot '{}' can't be restored", snapshot.name);
            held.check_chain(&frozen.name, &frozen.layer).map_err(|error| error.while_doing(doing()))?;
            overlays.push(Overlay {
                disk: frozen.name.clone(),
                layer: LayerId::random(&self.ctx.host),
                parent: Some(frozen.layer.clone()),
            });
        }
        let mode = match snapshot.memory {
            Some(_) if request.eager => RestoreMode::Eager,
            Some(_) => RestoreMode::Lazy,
            None => RestoreMode::Cold,
        };
        let start = snapshot.grade != Grade::Off;
        Ok(Plan { run: start && snapshot.guest_running && !request.paused, start, mode, overlays, snapshot })
    }

    /// Opens the memory image; all of it is verified where a running guest would be given up for it.
    fn open_memory(&self, plan: &Plan, verify: bool) -> Result<Option<Memory>> {
        let Some(memory) = &plan.snapshot.memory else { return Ok(None) };
        let doing = || format!("snapshot '{}' can't be restored", plan.snapshot.name);
        let damaged = |error| store_error(&doing(), error);
        let image = self.store.open_image(&image_id(&memory.image)?).map_err(damaged)?;
        let captured = captured(&image).map_err(|error| error.while_doing(doing()))?;
        if verify {
            self.verify_image(&image).map_err(|error| error.while_doing(doing()))?;
        }
        Ok(Some(Memory { image, captured }))
    }

    /// Reads every byte of an image.
    pub(crate) fn verify_image(&self, reader: &ImageReader) -> Result<()> {
        let mut progress = |done_bytes: u64, total_bytes: u64| {
            self.ctx.progress(Work::VerifyingMemory, done_bytes, total_bytes)
        };
        let result = reader.verify(&mut progress);
        self.check_cancel("verifying memory")?;
        result.map_err(|error| store_error("the memory image is damaged", error))
    }

    fn report(
        &self,
        held: &Held,
        plan: &Plan,
        brought: Option<Brought>,
        undo: Option<String>,
    ) -> Result<RestoreView> {
        let start_ms = self.ctx.time_line.until("guest-resumed").filter(|_| plan.run);
        let resumed =
            brought.as_ref().filter(|brought| brought.mode != RestoreMode::Cold).map(|brought| Resumed {
                name: &held.record.name,
                hardware: &plan.snapshot.hardware,
                machine: &*brought.started.machine,
                runs: plan.run,
            });
        let (clock, note) = resumed.map(|guest| self.bring_clock_up(&guest)).unzip();
        // The restore is done, whatever can't be found out about it now.
        let settled = lazy::bring_up_to_date(&self.ctx, &self.charge(&held.record.name, &held.folder), true);
        let asked =
            settled.and_then(|()| vm_state::ask(self.ctx.machines(), &held.folder)).map(|state| state.guest);
        let unknown = asked.as_ref().err().map(|error| format!("the VM's state is not known: {error}"));
        let state = asked.unwrap_or_else(|_| "unknown".into());
        if let Some(Brought { started, .. }) = &brought
            && (state == "stopped" || !started.machine.is_alive())
        {
            return Err(ended_after_all(held, &*started.machine));
        }
        let mode = brought.as_ref().map_or(plan.mode, |brought| brought.mode);
        let why = brought.and_then(|brought| brought.note);
        Ok(RestoreView {
            vm: held.record.name.to_string(),
            snapshot: plan.snapshot.name.to_string(),
            mode,
            start_ms,
            undo,
            clock,
            ports: if state == "stopped" {
                BTreeMap::new()
            } else {
                ports_in_use(&run_folder::for_users(&held.folder))
            },
            state,
            notes: why.into_iter().chain(note.flatten()).chain(unknown).collect(),
        })
    }

    /// Takes a restore back that did not reach its commit point.
    fn undo_restore(&self, held: &Held, plan: &UndoPlan, error: Error) -> Error {
        let ledger = self.ledger(&held.folder);
        if !ledger.may_be_undone() {
            return error.with_kind(ErrorKind::Partial);
        }
        let found = || self.ctx.machines().find(&held.folder);
        let old_runs = || matches!(found(), Ok(Some(machine)) if plan.qemu == Some(machine.mark()));
        if let Err(second) = ledger.undo(OPERATION, plan) {
            return error
                .with_hint(Hint::UndoFailed { error: second.to_string() })
                .with_kind(ErrorKind::Partial);
        }
        let name = &held.record.name;
        if plan.qemu.is_none() {
            return error;
        }
        if old_runs() {
            return error.while_doing(format!("the restore failed; VM '{name}' goes on as it was"));
        }
        let kind =
            if error.kind() == ErrorKind::Interrupted { ErrorKind::Interrupted } else { ErrorKind::Partial };
        error
            .while_doing(format!(
                "the restore failed after VM '{name}' was stopped for it; its disks are as they were"
            ))
            .with_kind(kind)
            .with_hint(Hint::BootFromDisks { vm: name.to_string() })
    }
}

/// The error for a restore that is decided, and whose QEMU has ended.
fn ended_after_all(held: &Held, machine: &dyn Machine) -> Error {
    let name = &held.record.name;
    qemu_ended(machine, &held.folder)
        .with_kind(ErrorKind::Partial)
        .with_hint(Hint::RestoreAgain { vm: name.to_string() })
}

/// The error for a new QEMU that ended after it had loaded the snapshot's state.
fn qemu_ended(machine: &dyn Machine, folder: &VmFolder) -> Error {
    let error = spawn::with_last_words(Error::failed("the restored VM's QEMU ended"), machine.run());
    explained(error, folder)
}

/// Adds why the page server ended QEMU, if it did.
fn explained(error: Error, folder: &VmFolder) -> Error {
    match lazy::failure(folder) {
        Some((_, failure)) => error.because(Error::failed(failure.message)),
        None => error,
    }
}

/// Whether the guest runs.
fn guest_of(machine: &dyn Machine) -> Old {
    match machine.channel_briefly(Use::Status).and_then(|monitor| monitor.status()) {
        Ok(status) if is_running(&status) => Old::Running,
        Ok(_) => Old::Paused,
        Err(_) => Old::Silent,
    }
}
