//! Brings a snapshot back: new layers on its frozen ones, a new QEMU with the captured hardware, its memory fed in.
//!
//! ```text
//!  snapshot, chain, bases and memory image are looked at while the old state still runs; whether QEMU starts shows later
//!  journal Prepare(undo)  new layers made -> old QEMU ended -> new QEMU started, state loaded, guest waits
//!  journal Commit(redo)   <- the commit point
//!  undo point and vm.json written; guest runs; journal gone
//! ```
//! Before the commit point a failure ends the new QEMU and removes the new layers: the VM is stopped, with its disks as
//! they were (running memory can't be kept). Between commit and `cont` a guard lets the guest go if this process dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use vmrewind_store::ImageReader;

use crate::capture::guard::{Guard, Watch};
use crate::context::Work;
use crate::engine::{Held, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::identity;
use crate::ids::{Address, LayerId, SnapshotId};
use crate::images::image_id;
use crate::images::store_error;
use crate::layers::ahead::SyncAhead;
use crate::layers::clones::clones_of;
use crate::layers::needs::readers;
use crate::layers::{base, overlay, qcow2};
use crate::lazy;
use crate::machine_image::captured;
use crate::monitor::is_running;
use crate::ops::end_vm::end_vm;
use crate::ops::guest::Resumed;
use crate::ops::restore_memory::{Brought, Memory, Target};
use crate::ops::tidy::tidy;
use crate::ops::vm_state;
use crate::record::RECORD_VERSION;
use crate::record::journal::{Cause, Overlay, RedoPlan, UndoPlan};
use crate::record::snapshot::{FrozenDisk, Grade, Manifest, Method, Origin, milliseconds};
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::view::{RestoreMode, RestoreView};
use crate::vm::machine::{Machine, Use};
use crate::vm::spawn;

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

impl Operation {
    /// Brings a snapshot back. The VM may run; any snapshot can be restored, any number of times.
    ///
    /// # Errors
    /// `NotFound`, `Busy`; `Damaged` or `Refused` where the snapshot or its base can't be used, the VM untouched;
    /// `Partial` where the new state did not come up: the VM is stopped then, its disks as they were.
    pub fn snapshot_restore(&self, request: &SnapshotRestore) -> Result<RestoreView> {
        let begun = Instant::now();
        let held = self.hold(&request.address.vm)?;
        let plan = self.plan_restore(request, &held)?;
        let old = self.ctx.machines().find(&held.folder)?;
        let memory = self.open_memory(&plan, old.is_some() && plan.mode == RestoreMode::Eager)?;
        let was = old.as_ref().map_or(Old::Off, |old| guest_of(&**old));
        let undo_plan = UndoPlan {
            overlays: plan.overlays.clone(),
            cause: Cause::Restore,
            image: None,
            qemu: old.as_ref().map(|machine| machine.mark()),
            guest_ran: was == Old::Running,
            migration: None,
        };
        self.ledger(&held.folder).prepare(OPERATION, &undo_plan)?;
        let mut ahead = SyncAhead::none();
        let brought = self.bring(&held, &plan, old.as_deref(), memory.as_ref(), &mut ahead);
        self.ctx.work_ended();
        // Asked whatever came of the rest: the kernel gives this answer once.
        let synced = ahead.finish().map_err(|error| {
            error.while_doing("the disks as they were before the restore can't be kept as an undo point")
        });
        let brought = brought
            .and_then(|brought| if request.discard_current { Ok(brought) } else { synced.map(|()| brought) });
        let result = brought.and_then(|brought| self.settle(request, &held, &plan, was, brought));
        match result {
            Ok((brought, undo)) => self.report(&held, &plan, brought, undo, begun),
            Err(error) => Err(self.undo_restore(&held, &undo_plan, error)),
        }
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

    /// Makes the new layers, ends the old QEMU, starts the new one and loads its state. The guest waits.
    fn bring(
        &self,
        held: &Held,
        plan: &Plan,
        old: Option<&dyn Machine>,
        memory: Option<&Memory>,
        ahead: &mut SyncAhead,
    ) -> Result<Option<Brought>> {
        for overlay in &plan.overlays {
            let disk = held
                .record
                .disk(&overlay.disk)
                .ok_or_else(|| Error::damaged(format!("the VM's record has no disk '{}'", overlay.disk)))?;
            overlay::make(&held.folder, disk, overlay)?;
            self.check_cancel("making new layers")?;
        }
        if let Some(old) = old {
            self.ctx.reached("layers-made");
            end_vm(old, &held.folder)?;
            self.ctx.reached("old-ended");
            // An undo point will need that, at a time when the new guest waits for it.
            let layers = held.record.disks.iter().map(|disk| held.folder.layer(&disk.name, &disk.active));
            *ahead = SyncAhead::begin(held.folder.files(), layers.collect());
            self.ctx.reached("sync-begun");
        }
        // The layers that are abandoned are frozen as an undo point.
        tidy(&self.ctx, &held.folder, &held.record)?;
        if !plan.start {
            return Ok(None);
        }
        let chains = plan.overlays.iter().map(|overlay| chain_on(held, overlay)).collect();
        let target = Target { held, snapshot: &plan.snapshot, chains: &chains, run: plan.run };
        lazy::forget_failure(&held.folder)?;
        let Some(memory) = memory else { return self.bring_cold(&target).map(Some) };
        let brought = self.bring_memory(&target, memory, plan.mode == RestoreMode::Lazy)?;
        self.ctx.reached("state-loaded");
        Ok(Some(brought))
    }

    /// Commits the restore and lets the guest run. Gives the name of the undo point.
    fn settle(
        &self,
        request: &SnapshotRestore,
        held: &Held,
        plan: &Plan,
        old: Old,
        mut brought: Option<Brought>,
    ) -> Result<(Option<Brought>, Option<String>)> {
        if let Some(Brought { started, .. }) = &brought
            && !started.machine.is_alive()
        {
            return Err(qemu_ended(&*started.machine, &held.folder));
        }
        let (redo_plan, undo_name) = self.decide(request, held, plan, old)?;
        let guard = brought.as_mut().and_then(|brought| brought.guard.take());
        let guard = guard.map(|guard| self.armed(guard)).transpose()?;
        // Letting the guest run is part of what the commit carries out, on a connection of its own.
        if let Some(Brought { started, .. }) = &mut brought {
            started.disconnect();
        }
        let committed = self.ledger(&held.folder).commit(OPERATION, &redo_plan);
        committed.map_err(|error| explained(error, &held.folder))?;
        // Not reached where the commit is not complete: the guard then acts once its pipe closes.
        if let Some(guard) = guard {
            guard.disarm();
        }
        Ok((brought, undo_name))
    }

    /// A guard that lets the guest run if this process dies once the restore is decided.
    fn armed(&self, mut guard: Guard) -> Result<Guard> {
        guard.wait_ready()?;
        guard.arm(Watch::Commit)?;
        self.ctx.reached("guard-armed");
        Ok(guard)
    }

    /// The decided state: the VM on the new layers; those that nobody else reads kept as an undo point or discarded.
    fn decide(
        &self,
        request: &SnapshotRestore,
        held: &Held,
        plan: &Plan,
        old: Old,
    ) -> Result<(RedoPlan, Option<String>)> {
        let mut record: VmRecord = held.record.clone();
        record.hardware = plan.snapshot.hardware.clone();
        record.current = Some(plan.snapshot.id.clone());
        for overlay in &plan.overlays {
            if let Some(disk) = record.disks.iter_mut().find(|disk| disk.name == overlay.disk) {
                disk.push_active(overlay.layer.clone(), overlay.parent.clone());
            }
        }
        let abandoned = layers_without_reader(&record, held)?;
        let has_data = |layer: &Overlay| !is_empty(held, layer);
        let discard = request.discard_current || !abandoned.iter().any(has_data);
        let undo = if discard { None } else { Some(self.undo_point(held, old)?) };
        let undo_name = undo.as_ref().map(|manifest| format!("{}@{}", held.record.name, manifest.name));
        let remove_layers = if discard { abandoned } else { Vec::new() };
        for layer in &remove_layers {
            if let Some(disk) = record.disks.iter_mut().find(|disk| disk.name == layer.disk) {
                disk.forget(&layer.layer);
            }
        }
        let plan = RedoPlan {
            write: undo.into_iter().collect(),
            remove_layers,
            resume: plan.run,
            ..RedoPlan::of(record)
        };
        Ok((plan, undo_name))
    }

    /// A snapshot of the disks as they are, for a way back.
    fn undo_point(&self, held: &Held, old: Old) -> Result<Manifest> {
        Ok(Manifest {
            version: RECORD_VERSION,
            id: SnapshotId::random(&self.ctx.host),
            name: held.snapshots.free_name("undo")?,
            origin: Origin::Undo,
            parent: held.record.current.clone(),
            created: self.ctx.now(),
            message: Some("disks as they were before a restore".into()),
            labels: BTreeMap::new(),
            // Its disks are of one instant, but nobody asked the guest to make them ready.
            grade: if old == Old::Off { Grade::Off } else { Grade::Crash },
            method: Method::None,
            pause_ms: 0.0,
            total_ms: 0.0,
            guest_running: old == Old::Running,
            hardware: held.record.hardware.clone(),
            disks: held.record.disks.iter().map(|disk| FrozenDisk::of(&held.folder, disk)).collect(),
            memory: None,
        })
    }

    fn report(
        &self,
        held: &Held,
        plan: &Plan,
        brought: Option<Brought>,
        undo: Option<String>,
        begun: Instant,
    ) -> Result<RestoreView> {
        let start_ms = plan.run.then(|| milliseconds(begun.elapsed()));
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
            state,
            clock,
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
        if plan.qemu.is_none() || old_runs() {
            return error;
        }
        let name = &held.record.name;
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

/// Whether the guest runs. One that can't be asked is taken for running: it will be wanted to run again.
fn guest_of(machine: &dyn Machine) -> Old {
    let status = machine.channel_briefly(Use::Status).and_then(|monitor| monitor.status());
    if status.is_ok_and(|status| !is_running(&status)) { Old::Paused } else { Old::Running }
}

/// The layers that neither the VM's present state nor a snapshot or clone reads through.
fn layers_without_reader(record: &VmRecord, held: &Held) -> Result<Vec<Overlay>> {
    let clones = clones_of(&held.folder, &record.id)?;
    let readers = readers(record, &held.snapshots.0, &clones, &BTreeSet::new());
    let unread = readers.into_iter().filter(|(_, readers)| readers.is_empty());
    Ok(unread.map(|((disk, layer), _)| Overlay { disk, layer, parent: None }).collect())
}

/// Whether a layer holds no data at all. One that can't be read counts as holding some.
fn is_empty(held: &Held, layer: &Overlay) -> bool {
    qcow2::is_empty(&held.folder.layer(&layer.disk, &layer.layer)).unwrap_or(false)
}

/// A disk with the layers of a new delta: the delta, then those that it lies on.
fn chain_on(held: &Held, overlay: &Overlay) -> (String, Vec<LayerId>) {
    let below = held.record.disk(&overlay.disk).zip(overlay.parent.as_ref());
    let below = below.and_then(|(disk, parent)| disk.chain(parent)).unwrap_or_default();
    (overlay.disk.clone(), [vec![overlay.layer.clone()], below].concat())
}

#[cfg(test)]
mod tests;
