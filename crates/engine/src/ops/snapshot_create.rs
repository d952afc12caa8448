//! Makes a snapshot: of a running VM with its memory, of its disks only, or of a VM that does not run.
//!
//! ```text
//!  journal Prepare(undo)  new layers made -> [guard, memory captured] -> disks switched -> image durable
//!  journal Commit(redo)   <- the commit point
//!  manifest, vm.json written; journal gone
//! ```
//! Before the commit point a crash or failure is undone: the VM is as before (journaled.rs). After it the snapshot is
//! whole. Each method that is tried is an attempt of its own, undone before the next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vmrewind_qemu::qmp::commands::RunState;

use crate::capture::attempt::{Destination, Moment, Subject, capture, capture_disks};
use crate::capture::method::methods;
use crate::capture::shot::Miss;
use crate::engine::{Held, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, SnapshotId, SnapshotName, VmName};
use crate::layers::{base, frozen, overlay};
use crate::lazy;
use crate::ops::tidy::tidy;
use crate::ops::vm_state::state_word;
use crate::record::RECORD_VERSION;
use crate::record::journal::{Cause, MigrationSettings, Overlay, RedoPlan, UndoPlan};
use crate::record::snapshot::{FrozenDisk, Grade, Manifest, MemoryRecord, Method, Origin, milliseconds};
use crate::record::snapshots::Snapshots;
use crate::record::vm::{DiskRecord, VmRecord};
use crate::view::SnapshotView;
use crate::vm::machine::{Machine, Use};

/// The journal's name of this operation.
const OPERATION: &str = "snapshot create";

/// A request for a snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotCreate {
    /// The VM.
    pub vm: VmName,
    /// Its name; `snap-N` where none is given.
    pub name: Option<SnapshotName>,
    /// The user's words.
    pub message: Option<String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Leave the memory out.
    pub disk_only: bool,
    /// What the snapshot must promise at least.
    pub require: Option<Grade>,
    /// How long the guest may stand still.
    pub max_pause: Option<Duration>,
}

/// What is decided before anything is done.
struct Plan {
    id: SnapshotId,
    name: SnapshotName,
    grade: Grade,
    guest_runs: bool,
    /// Memory image of the nearest snapshot that the present state descends from: what did not change since is there.
    image_before: Option<String>,
}

/// What an attempt gave.
struct Outcome {
    method: Method,
    undo: UndoPlan,
    moment: Moment,
}

impl Operation {
    /// Makes a snapshot.
    ///
    /// # Errors
    /// `Refused` for a name that is taken, a grade or pause that can't be kept; `NotFound`, `Busy`; `Failed` where
    /// the capture failed. The VM is as before then and runs if it ran.
    pub fn snapshot_create(&self, request: &SnapshotCreate) -> Result<SnapshotView> {
        let begun = Instant::now();
        let mut held = self.hold(&request.vm)?;
        // QEMU can't send a memory that it does not have yet.
        let charge = self.charge(&request.vm, &held.folder);
        lazy::wait_whole(&self.ctx, &charge).inspect_err(|_| self.ctx.work_ended())?;
        let machine = self.ctx.machines().find(&held.folder)?;
        let plan = self.plan_create(request, &held, machine.as_deref())?;
        let outcome = self.carry_out(request, &mut held, &plan, machine.as_deref());
        self.ctx.work_ended();
        let outcome = outcome?;
        let manifest = manifest(request, &held, &plan, &outcome, begun.elapsed());
        let mut record = held.record.clone();
        for overlay in &outcome.undo.overlays {
            if let Some(disk) = record.disks.iter_mut().find(|disk| disk.name == overlay.disk) {
                disk.push_active(overlay.layer.clone(), overlay.parent.clone());
            }
        }
        record.current = Some(plan.id.clone());
        let committed = self
            .ledger(&held.folder)
            .commit(OPERATION, &RedoPlan { write: vec![manifest.clone()], ..RedoPlan::of(record.clone()) });
        if let Err(error) = committed {
            return Err(self.undo_attempt(&held, &outcome.undo, error));
        }
        if let Some(guess) = &outcome.moment.guess
            && let Err(error) = guess.save(&held.folder, &plan.id)
        {
            tracing::info!("the first guess at the working set is not kept: {error}");
        }
        held.snapshots.sound.push(manifest.clone());
        Ok(SnapshotView::of(&held.folder, &record, &held.snapshots, &manifest))
    }

    fn plan_create(
        &self,
        request: &SnapshotCreate,
        held: &Held,
        machine: Option<&dyn Machine>,
    ) -> Result<Plan> {
        let vm = &request.vm;
        refuse_not_started(&held.record)?;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => held.snapshots.free_name("snap")?,
        };
        held.snapshots.refuse_taken(&held.record, &name, None)?;
        let guest_runs = match machine {
            None => false,
            Some(machine) => self.check_state(vm, machine)?,
        };
        let grade = match (machine, request.disk_only) {
            (None, _) => Grade::Off,
            (Some(_), true) => Grade::Crash,
            (Some(_), false) => Grade::Live,
        };
        if let Some(required) = request.require
            && !grade.satisfies(required)
        {
            return Err(Error::refused(format!(
                "a snapshot of VM '{vm}' would be of grade {}, not {}",
                grade.as_str(),
                required.as_str()
            ))
            .with_hint(hint_for(required)));
        }
        base::check_all_unchanged(&held.record)?;
        frozen::check_present(&held.folder, &held.record)?;
        if held.record.disks.is_empty() && grade != Grade::Live {
            return Err(Error::refused(format!(
                "VM '{vm}' has no disks, so there is nothing to keep but its memory"
            ))
            .with_hint(Hint::StartForMemory));
        }
        let image_before = image_before(&held.record, &held.snapshots);
        Ok(Plan { id: SnapshotId::random(&self.ctx.host), name, grade, guest_runs, image_before })
    }

    /// Whether the guest runs; refuses states in which nothing can be captured.
    fn check_state(&self, vm: &VmName, machine: &dyn Machine) -> Result<bool> {
        match machine.channel(Use::Status)?.status()? {
            RunState::Running => Ok(true),
            RunState::Paused | RunState::Prelaunch => Ok(false),
            RunState::Inmigrate => Err(Error::new(ErrorKind::Busy, format!("VM '{vm}' is being restored"))
                .with_hint(Hint::WaitUntilItRuns)),
            state => Err(Error::refused(format!(
                "VM '{vm}' is in state {}: it can't be captured",
                state_word(&state)
            ))
            .with_hint(Hint::LookAtState { vm: vm.to_string() })),
        }
    }

    fn carry_out(
        &self,
        request: &SnapshotCreate,
        held: &mut Held,
        plan: &Plan,
        machine: Option<&dyn Machine>,
    ) -> Result<Outcome> {
        match (machine, plan.grade) {
            (Some(machine), Grade::Live) => self.capture_live(request, held, plan, machine),
            (None, _) => {
                tidy(&self.ctx, &held.folder, &held.record)?;
                self.attempt(held, plan, machine, Method::None, None).map_err(Miss::into_error)
            }
            _ => self.attempt(held, plan, machine, Method::None, None).map_err(Miss::into_error),
        }
    }

    /// Tries one method after the other.
    fn capture_live(
        &self,
        request: &SnapshotCreate,
        held: &mut Held,
        plan: &Plan,
        machine: &dyn Machine,
    ) -> Result<Outcome> {
        let mut misses = Vec::new();
        for method in methods(plan.guest_runs, request.max_pause.is_some()) {
            if *method == Method::Precopy
                && let Some(why) = machine.channel(Use::Operation)?.why_precopy_is_unsound()?
            {
                misses.push((*method, Error::failed(why)));
                continue;
            }
            match self.attempt(held, plan, Some(machine), *method, request.max_pause) {
                Ok(outcome) => return Ok(outcome),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::Method(error)) => {
                    tracing::info!(method = method.as_str(), "{error}: {}", error.causes().join(": "));
                    misses.push((*method, error));
                }
            }
        }
        Err(no_method(&request.vm, &misses, plan.guest_runs))
    }

    /// One attempt: journal, new layers, memory, disks switched. Undone where it fails.
    fn attempt(
        &self,
        held: &mut Held,
        plan: &Plan,
        machine: Option<&dyn Machine>,
        method: Method,
        max_pause: Option<Duration>,
    ) -> std::result::Result<Outcome, Miss> {
        let overlays: Vec<Overlay> = held.record.disks.iter().map(|disk| self.new_overlay(disk)).collect();
        let undo = UndoPlan {
            cause: Cause::Capture,
            overlays,
            image: (method != Method::None).then(|| plan.id.to_string()),
            qemu: machine.map(Machine::mark),
            guest_ran: plan.guest_runs,
            migration: migration_settings(machine, method)?,
            successor: None,
        };
        self.ledger(&held.folder).prepare(OPERATION, &undo)?;
        let frozen = self
            .make_layers(held, &undo.overlays)
            .map_err(Miss::Final)
            .and_then(|()| self.freeze(held, plan, machine, method, &undo, max_pause));
        match frozen {
            Ok(moment) => Ok(Outcome { method, undo, moment }),
            Err(Miss::Method(error)) => match self.undo_attempt(held, &undo, error) {
                error if error.kind() == ErrorKind::Partial => Err(Miss::Final(error)),
                error => {
                    // The layers of the attempt can have stayed, as the VM's active ones.
                    held.record = VmRecord::read(&held.folder)?;
                    Err(Miss::Method(error))
                }
            },
            Err(Miss::Final(error)) => Err(Miss::Final(self.undo_attempt(held, &undo, error))),
        }
    }

    fn make_layers(&self, held: &Held, overlays: &[Overlay]) -> Result<()> {
        for (overlay, disk) in overlays.iter().zip(&held.record.disks) {
            overlay::make(&held.folder, disk, overlay)?;
            self.check_cancel("making new layers")?;
        }
        self.ctx.reached("layers-made");
        Ok(())
    }

    /// Puts the new layers on top; with the memory of the same instant, unless by [`Method::None`].
    fn freeze(
        &self,
        held: &Held,
        plan: &Plan,
        machine: Option<&dyn Machine>,
        method: Method,
        undo: &UndoPlan,
        max_pause: Option<Duration>,
    ) -> std::result::Result<Moment, Miss> {
        // Without a QEMU the new layers become the active ones by the commit alone.
        let Some(machine) = machine else { return Ok(Moment::now(&self.ctx)) };
        let subject = Subject {
            ctx: &self.ctx,
            folder: &held.folder,
            record: &held.record,
            machine,
            overlays: &undo.overlays,
            guest_runs: plan.guest_runs,
            migration: undo.migration.as_ref(),
        };
        if method == Method::None {
            return Ok(capture_disks(&subject)?);
        }
        let parent = plan.image_before.as_deref();
        capture(&subject, &Destination { store: &self.store, id: &plan.id, parent, method, max_pause })
    }

    fn new_overlay(&self, disk: &DiskRecord) -> Overlay {
        Overlay {
            disk: disk.name.clone(),
            layer: LayerId::random(&self.ctx.host),
            parent: Some(disk.active.clone()),
        }
    }

    /// Undoes what was not decided. Gives the error to report.
    fn undo_attempt(&self, held: &Held, plan: &UndoPlan, error: Error) -> Error {
        let ledger = self.ledger(&held.folder);
        if !ledger.may_be_undone() {
            return error.with_kind(ErrorKind::Partial);
        }
        match ledger.undo(OPERATION, plan) {
            Ok(()) => error,
            Err(second) => Error::new(ErrorKind::Partial, format!("{error}; undoing it is not complete"))
                .with_hint(Hint::NextUndoes)
                .because(second),
        }
    }
}

/// What a capture of the memory changes in QEMU, before it does.
fn migration_settings(machine: Option<&dyn Machine>, method: Method) -> Result<Option<MigrationSettings>> {
    let Some(machine) = machine.filter(|_| method != Method::None) else { return Ok(None) };
    machine.channel(Use::Operation)?.migration_settings().map(Some)
}

/// Finds the memory image of the current snapshot, or of its nearest ancestor that has one.
fn image_before(record: &VmRecord, snapshots: &Snapshots) -> Option<String> {
    let mut next = record.current.as_ref();
    // Manifests are a person's to edit: a circle of parents ends with their number.
    for _ in 0..snapshots.sound.len() {
        let id = next?;
        let snapshot = snapshots.by_id(id)?;
        if let Some(memory) = &snapshot.memory {
            return Some(memory.image.clone());
        }
        next = snapshot.parent.as_ref();
    }
    None
}

/// A clone that was not started yet is nothing else than its snapshot, whose memory a snapshot of its disks would not have.
fn refuse_not_started(record: &VmRecord) -> Result<()> {
    match &record.origin {
        Some(origin) if record.first_start.is_some() => Err(Error::refused(format!(
            "VM '{}' was not started since it was cloned: it is what '{}@{}' is",
            record.name, origin.vm, origin.snapshot
        ))
        .with_hint(Hint::StartOrCloneAgain)),
        _ => Ok(()),
    }
}

fn manifest(
    request: &SnapshotCreate,
    held: &Held,
    plan: &Plan,
    outcome: &Outcome,
    total: Duration,
) -> Manifest {
    Manifest {
        version: RECORD_VERSION,
        id: plan.id.clone(),
        vm_id: Some(held.record.id.clone()),
        name: plan.name.clone(),
        origin: Origin::User,
        parent: held.record.current.clone(),
        created: outcome.moment.at,
        message: request.message.clone(),
        labels: request.labels.clone(),
        grade: plan.grade,
        method: outcome.method,
        pause_ms: milliseconds(outcome.moment.pause),
        total_ms: milliseconds(total),
        guest_running: plan.guest_runs,
        hardware: held.record.hardware.clone(),
        disks: held.record.disks.iter().map(|disk| FrozenDisk::of(&held.folder, disk)).collect(),
        memory: outcome.moment.memory.as_ref().map(|summary| MemoryRecord {
            image: summary.id.as_str().to_owned(),
            bytes: summary.bytes,
            zero_bytes: summary.zero_bytes,
            new_bytes: summary.new_bytes,
            stored_bytes: summary.stored_bytes,
        }),
    }
}

fn no_method(vm: &VmName, misses: &[(Method, Error)], guest_runs: bool) -> Error {
    let why: Vec<String> = misses
        .iter()
        .map(|(method, error)| {
            let causes = error.causes();
            let cause = causes.last().map(|cause| format!(" ({cause})")).unwrap_or_default();
            format!("{}: {error}{cause}", method.as_str())
        })
        .collect();
    let refused = misses.iter().find(|(_, error)| error.kind() == ErrorKind::Refused);
    let kind = refused.map_or(ErrorKind::Failed, |_| ErrorKind::Refused);
    let otherwise = if guest_runs { Hint::WithoutMemory } else { Hint::RunOrWithoutMemory };
    let hint = refused.and_then(|(_, error)| error.hint()).cloned().unwrap_or(otherwise);
    Error::new(kind, format!("cannot capture VM '{vm}' live; it is as before. {}", why.join("; ")))
        .with_hint(hint)
}

/// How to get a snapshot of that grade, where it would be of another.
fn hint_for(required: Grade) -> Hint {
    match required {
        Grade::Live => Hint::StartWithMemory,
        Grade::Off => Hint::StopFirst,
        Grade::Filesystem | Grade::Crash => Hint::MemoryToo,
    }
}

#[cfg(test)]
mod tests;
