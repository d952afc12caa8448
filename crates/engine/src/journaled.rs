//! Carries journaled plans out: undoes what was not committed, finishes what was.
//!
//! Both are idempotent and used alike by the operation itself and by the next command after a crash.
//!
//! ```text
//!  undo a capture   let the guest go; new layers that can hold data of the VM stay, as its active layers without a
//!                   snapshot; the others and the memory image go
//!  undo a restore   let the old guest go, end the QEMU that the restore started; its new layers go
//!  redo             another QEMU takes the VM's place, guest let go, manifests, record, the old QEMU ended, then what is to
//!                   be removed
//! ```
//! A layer that was switched to is kept rather than folded back: that takes no time, space or job in QEMU, and there
//! is no moment at which it could be unknown which of two layers is newer. The disks' content is the same.

use std::path::Path;
use std::time::{Duration, Instant};

use vmrewind_store::Store;

use crate::context::{Context, Note};
use crate::end_vm::end_stopped_vm;
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::LayerId;
use crate::images::{remove_image, store_error};
use crate::layers::{frozen, qcow2};
use crate::lazy;
use crate::migration::put_back_or_owe;
use crate::monitor::{Monitor, stands_still_for_us};
use crate::record::journal::{Cause, Journal, Overlay, Phase, RedoPlan, Succession, Successor, UndoPlan};
use crate::record::snapshot::{FrozenDisk, Manifest};
use crate::record::snapshots::Snapshots;
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::vm::machine::{Machine, Use};
use crate::vm::{hand_over, run_folder};

/// The journal of one VM and what is needed to carry it out. The VM's lock is held.
#[derive(Clone, Copy)]
pub(crate) struct Ledger<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) store: &'a Store,
    pub(crate) folder: &'a VmFolder,
}

impl Ledger<'_> {
    /// Finishes or undoes the operation that a dead command left on the VM. Returns what it was, if any.
    pub(crate) fn recover(&self) -> Result<Option<String>> {
        let Some(journal) = Journal::load(self.folder)? else { return Ok(None) };
        let operation = journal.operation.clone();
        tracing::info!(operation, "recovering");
        match &journal.phase {
            Phase::Prepare(plan) => {
                self.ctx.note(Note::Undoing { operation: operation.clone() });
                self.undo(&operation, plan)
            }
            Phase::Commit(plan) => {
                self.ctx.note(Note::Finishing { operation: operation.clone() });
                self.redo(plan).and_then(|()| Journal::clear(self.folder))
            }
        }
        .map_err(|error| error.while_doing(format!("cannot recover from an interrupted '{operation}'")))?;
        Ok(Some(operation))
    }

    /// Writes that an operation begins, and how it would be undone.
    pub(crate) fn prepare(&self, operation: &str, plan: &UndoPlan) -> Result<()> {
        Journal::new(operation, self.ctx.now(), Phase::Prepare(Box::new(plan.clone()))).save(self.folder)?;
        self.ctx.reached("journal-prepared");
        Ok(())
    }

    /// Writes a decided operation down (the commit point) and carries it out.
    ///
    /// # Errors
    /// `Partial` where it is decided but not complete; any other where it is not decided.
    pub(crate) fn commit(&self, operation: &str, plan: &RedoPlan) -> Result<()> {
        let plan = &self.frozen(plan)?;
        let phase = Phase::Commit(Box::new(plan.clone()));
        let saved = Journal::new(operation, self.ctx.now(), phase).save(self.folder);
        // A journal that can't be read may be the new one: nothing is known to be undecided then.
        if saved.is_err()
            && matches!(Journal::load(self.folder), Ok(None | Some(Journal { phase: Phase::Prepare(_), .. })))
        {
            return saved;
        }
        self.ctx.reached("committed");
        saved.and_then(|()| self.redo(plan)).and_then(|()| Journal::clear(self.folder)).map_err(|error| {
            error
                .while_doing(format!("'{operation}' is decided but not complete"))
                .with_kind(ErrorKind::Partial)
                .with_hint(Hint::NextCompletes)
        })
    }

    /// Whether the operation that has prepared itself may be undone.
    pub(crate) fn may_be_undone(&self) -> bool {
        Journal::may_be_undone(self.folder)
    }

    /// Brings the VM back to how it was before an operation that was not decided, and ends the operation.
    pub(crate) fn undo(&self, operation: &str, plan: &UndoPlan) -> Result<()> {
        let machine = self.ctx.machines().find(self.folder)?;
        let kept = match (machine, plan.cause) {
            (Some(machine), Cause::Capture) => match self.keep_switched(&*machine, plan) {
                // It was about to end when it was found.
                Err(_) if machine.wait_end(machine.patience().end) => self.keep_written(plan)?,
                kept => kept?,
            },
            (None, Cause::Capture) => self.keep_written(plan)?,
            (Some(machine), Cause::Restore) => {
                // A successor that was not decided never ran.
                if plan.qemu != Some(machine.mark()) {
                    machine.kill()?;
                    lazy::end(self.folder)?;
                } else if plan.guest_ran {
                    let_old_guest_go(&*machine)?;
                }
                Vec::new()
            }
            (None, Cause::Restore) => Vec::new(),
        };
        self.ctx.reached("undo-guest-let-go");
        if let Some(successor) = &plan.successor {
            self.dismiss(successor)?;
        }
        // Nothing names the image, and what it takes may be what the rest needs on a full disk.
        if let Some(image) = &plan.image {
            remove_image(self.store, image)?;
        }
        let dropped: Vec<Overlay> =
            plan.overlays.iter().filter(|overlay| !kept.contains(overlay)).cloned().collect();
        if kept.is_empty() {
            // Nothing is to be decided, so nothing is written: on a full disk that might fail.
            self.remove_layers(&dropped)?;
            self.sweep_store()?;
            return Journal::clear(self.folder);
        }
        let mut record = VmRecord::read(self.folder)?;
        for overlay in &kept {
            if let Some(disk) = record.disks.iter_mut().find(|disk| disk.name == overlay.disk)
                && disk.active != overlay.layer
            {
                disk.push_active(overlay.layer.clone(), overlay.parent.clone());
            }
        }
        self.commit(operation, &RedoPlan { remove_layers: dropped, ..RedoPlan::of(record) })
    }

    /// Ends a QEMU that was to take the place of the VM's, and does not.
    fn dismiss(&self, successor: &Successor) -> Result<()> {
        let folder = self.folder.at_seat(successor.seat);
        if let Some(machine) = self.ctx.machines().find(&folder)? {
            machine.kill()?;
        }
        lazy::end(&folder)?;
        run_folder::leave_seat(self.folder, successor.seat);
        hand_over::discard(Path::new(&successor.working_dir), &successor.later);
        Ok(())
    }

    /// Makes another QEMU the VM's. The guest of the old one stands still.
    fn succeed(&self, succession: &Succession) -> Result<()> {
        if let Some(seat) = succession.seat {
            run_folder::take_seat(self.folder, seat)?;
            self.ctx.reached("seat-taken");
        }
        Ok(())
    }

    /// Ends the QEMU whose place was taken, and gives what it had to the other. The guest runs already.
    fn retire(&self, succession: &Succession, record: &VmRecord) -> Result<()> {
        let Succession { old, old_seat, seat, later } = succession;
        let machines = self.ctx.machines();
        let left = self.folder.at_seat(*old_seat);
        let machine = machines.find(&left)?.filter(|machine| machine.mark() == *old);
        let new = seat.map(|_| machines.find(self.folder)).transpose()?.flatten();
        if let Some(new) = &new {
            self.tell(hand_over::ports(machine.as_deref(), &**new, later));
        }
        match machine {
            Some(machine) => end_stopped_vm(&*machine, &left)?,
            None => lazy::end(&left)?,
        }
        self.ctx.reached("old-ended");
        let working_dir = Path::new(&record.hardware.working_dir);
        self.tell(hand_over::files(working_dir, new.map(|machine| machine.mark().pid), later));
        if seat.is_some() {
            run_folder::leave_seat(self.folder, *old_seat);
        }
        Ok(())
    }

    fn tell(&self, missed: Vec<hand_over::Missed>) {
        for hand_over::Missed { what, error } in missed {
            self.ctx.note(Note::NotHandedOver { what, error: error.in_one_line() });
        }
    }

    /// Lets the guest go and finds the new layers that its QEMU writes to; the others are closed there.
    fn keep_switched(&self, machine: &dyn Machine, plan: &UndoPlan) -> Result<Vec<Overlay>> {
        let monitor = machine.channel(Use::Operation)?;
        if plan.guest_ran {
            let_guest_go(&monitor, machine.patience().let_go)?;
        }
        if let Some(settings) = &plan.migration {
            // QEMU takes no settings while it migrates.
            end_migration(&monitor, machine.patience().let_go)?;
            put_back_or_owe(&monitor, machine.mark(), machine.run(), settings);
        }
        let nodes = monitor.nodes()?;
        let mut kept = Vec::new();
        for overlay in &plan.overlays {
            let name = overlay.layer.node_name();
            match nodes.iter().find(|node| node.node_name.as_deref() == Some(&name)) {
                // A node that is opened but on top of nothing has no backing file yet.
                Some(node) if node.backing_file.is_some() => kept.push(overlay.clone()),
                Some(_) => monitor.remove_node(&name)?,
                None => {}
            }
        }
        Ok(kept)
    }

    /// Finds the new layers that a QEMU which is gone can have written to. An empty one says the same as its parent.
    fn keep_written(&self, plan: &UndoPlan) -> Result<Vec<Overlay>> {
        let mut kept = Vec::new();
        for overlay in &plan.overlays {
            let path = self.folder.layer(&overlay.disk, &overlay.layer);
            // A file that is not qcow2 was cut off while it was made: nothing was ever written through it.
            let whole = path.exists() && matches!(qcow2::read_header(&path), Ok(Some(_)));
            if whole && qcow2::has_data(&path)? {
                kept.push(overlay.clone());
            }
        }
        Ok(kept)
    }

    /// Carries a decided operation out.
    fn redo(&self, plan: &RedoPlan) -> Result<()> {
        if let Some(succession) = &plan.succession {
            self.succeed(succession)?;
        }
        // Early, since a guest waits for it: the rest is only written down, and the journal says it already.
        if plan.resume
            && let Some(machine) = self.ctx.machines().find(self.folder)?
        {
            let_guest_go(&machine.channel(Use::Operation)?, machine.patience().let_go)?;
            self.ctx.reached("guest-resumed");
        }
        for manifest in &plan.write {
            self.freeze(manifest);
            manifest.save(self.folder)?;
        }
        self.ctx.reached("manifests-written");
        plan.record.save(self.folder)?;
        self.ctx.reached("record-written");
        // Before layers go that it has open.
        if let Some(succession) = &plan.succession {
            self.retire(succession, &plan.record)?;
        }
        for id in &plan.remove {
            // One that is damaged can be anything, a folder too.
            self.folder.files().remove_tree(&self.folder.manifest(id))?;
            self.folder.files().remove_file(&self.folder.working_set(id))?;
        }
        self.folder.files().sync_dir(&self.folder.snapshots())?;
        self.ctx.reached("manifests-removed");
        self.remove_layers(&plan.remove_layers)?;
        self.ctx.reached("layers-removed");
        for image in &plan.remove_images {
            remove_image(self.store, image)?;
        }
        self.sweep_store()
    }

    fn remove_layers(&self, layers: &[Overlay]) -> Result<()> {
        for layer in layers {
            self.folder.files().remove_file(&self.folder.layer(&layer.disk, &layer.layer))?;
            self.folder.files().sync_dir(&self.folder.disk(&layer.disk))?;
        }
        Ok(())
    }

    fn sweep_store(&self) -> Result<()> {
        self.store.sweep(|_| false).map(drop).map_err(|error| store_error("cannot tidy the store up", error))
    }

    /// Makes the layers that new manifests name durable, before the journal promises them, and puts down in the plan's record
    /// how they look from now on.
    ///
    /// In this order: the time of a file's last write lasts with its sync. A layer that no manifest names gets no mark.
    fn frozen(&self, plan: &RedoPlan) -> Result<RedoPlan> {
        let mut plan = plan.clone();
        if plan.write.is_empty() {
            return Ok(plan);
        }
        // One that can't be read promises nothing: its layers are synced once more.
        let earlier = Snapshots::load(self.folder)?.sound;
        for manifest in &plan.write {
            for disk in &manifest.disks {
                let cannot = format!("cannot keep disk '{}' of '{}'", disk.name, manifest.name);
                for layer in unpromised(&plan.record, &earlier, disk) {
                    let synced = self.folder.files().sync_file(&self.folder.layer(&disk.name, &layer));
                    let mark = synced.and_then(|()| frozen::mark(self.folder, &disk.name, &layer));
                    let mark = mark.map_err(|error| error.while_doing(cannot.clone()))?;
                    let disks = plan.record.disks.iter_mut().filter(|record| record.name == disk.name);
                    let mut layers = disks.flat_map(|record| &mut record.layers);
                    if let Some(record) = layers.find(|record| record.id == layer) {
                        record.frozen.get_or_insert(mark);
                    }
                }
            }
        }
        Ok(plan)
    }

    /// Makes the layers of a snapshot read-only: a reminder for people and programs, since QEMU never writes them.
    fn freeze(&self, manifest: &Manifest) {
        for disk in &manifest.disks {
            let path = self.folder.layer(&disk.name, &disk.layer);
            let _ = self.folder.files().set_mode(&path, 0o400);
        }
    }
}

/// The layers of a snapshot's disk that no earlier snapshot has had synced, from the top. Not only the top one: below
/// it can lie layers that the undoing of a capture has kept, and which QEMU need not have flushed (`cache=unsafe`). So are
/// those that an older vmrewind had synced and put nothing down of.
fn unpromised(record: &VmRecord, earlier: &[Manifest], frozen: &FrozenDisk) -> Vec<LayerId> {
    let chain = record.disk(&frozen.name).and_then(|disk| disk.chain(&frozen.layer));
    let is_promised = |layer: &LayerId| {
        let mut disks = earlier.iter().flat_map(|manifest| &manifest.disks);
        disks.any(|disk| disk.name == frozen.name && disk.layer == *layer)
    };
    let chain = chain.unwrap_or_else(|| vec![frozen.layer.clone()]);
    let is_marked = |layer: &LayerId| {
        let mut layers = record.disk(&frozen.name).into_iter().flat_map(|disk| &disk.layers);
        layers.any(|record| record.id == *layer && record.frozen.is_some())
    };
    chain.into_iter().filter(|layer| !is_promised(layer) || !is_marked(layer)).collect()
}

/// Lets the guest go of the QEMU that ran before a restore. One that the restore had told to end is waited for.
fn let_old_guest_go(machine: &dyn Machine) -> Result<()> {
    let patience = machine.patience();
    match machine.channel(Use::Operation).and_then(|monitor| let_guest_go(&monitor, patience.let_go)) {
        Err(_) if machine.wait_end(patience.end) => Ok(()),
        done => done,
    }
}

/// Ends a migration that is under way, and waits until the guest runs, if it stands still for our sake.
fn let_guest_go(monitor: &Monitor, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        // Memory that still comes in is no migration of ours to be ended: the guest can run.
        let over = monitor.migration()?.status.is_none_or(|status| status.is_over() || status.is_postcopy());
        if over && !stands_still_for_us(&monitor.status()?) {
            return Ok(());
        }
        let step = if over { monitor.cont() } else { monitor.cancel_migration() };
        if Instant::now() >= deadline {
            return step.and(Err(Error::failed("QEMU does not let the guest run")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a migration of ours that is under way, whatever the guest does.
fn end_migration(monitor: &Monitor, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !monitor.migration()?.status.is_none_or(|status| status.is_over()) {
        if Instant::now() >= deadline {
            return Err(Error::failed("QEMU does not end a migration"));
        }
        monitor.cancel_migration()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
