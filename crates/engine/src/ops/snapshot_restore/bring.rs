//! Carries a restore out: the new layers, the new QEMU, and the old one's place for it.

use std::collections::BTreeMap;

use super::order::Order;
use super::{Before, Made, OPERATION, Old, Plan, SnapshotRestore, explained, qemu_ended};
use crate::capture::guard::{Guard, Watch};
use crate::context::Note;
use crate::end_vm::end_vm;
use crate::engine::{Held, Operation};
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::layers::ahead::SyncAhead;
use crate::layers::overlay;
use crate::lazy;
use crate::ops::restore_memory::{Brought, Memory, Target};
use crate::ops::tidy::tidy;
use crate::record::journal::{Overlay, RedoPlan};
use crate::root::VmFolder;
use crate::view::RestoreMode;
use crate::vm::machine::{Machine, Use};
use crate::vm::ports::ports_in_use;
use crate::vm::run_folder;

impl Operation {
    /// Makes the new layers, starts the new QEMU and loads its state. The guest waits.
    pub(super) fn bring(
        &self,
        held: &Held,
        plan: &Plan,
        before: &Before,
        memory: Option<&Memory>,
        made: &mut Made,
    ) -> Result<()> {
        for overlay in &plan.overlays {
            let disk = held
                .record
                .disk(&overlay.disk)
                .ok_or_else(|| Error::damaged(format!("the VM's record has no disk '{}'", overlay.disk)))?;
            overlay::make(&held.folder, disk, overlay)?;
            self.check_cancel("making new layers")?;
        }
        let chains = plan.overlays.iter().map(|overlay| chain_on(held, overlay)).collect();
        let folder = new_folder(held, before);
        let beside = matches!(before.order, Order::Beside { .. }).then(|| self.ports_of(before));
        let target = Target {
            held,
            folder: &folder,
            beside,
            snapshot: &plan.snapshot,
            chains: &chains,
            run: plan.run,
        };
        self.make_way(&target, before, made)?;
        if !plan.start {
            return Ok(());
        }
        run_folder::prepare(&folder, &held.record.id)?;
        lazy::forget_failure(&folder)?;
        made.brought = Some(match memory {
            None => self.bring_cold(&target)?,
            Some(memory) => {
                let brought = self.bring_memory(&target, memory, plan.mode == RestoreMode::Lazy)?;
                self.ctx.reached("state-loaded");
                brought
            }
        });
        Ok(())
    }

    /// Has the old QEMU do what it must before the new one starts: end, or nothing but write its disks out meanwhile.
    fn make_way(&self, target: &Target<'_>, before: &Before, made: &mut Made) -> Result<()> {
        let held = target.held;
        let Some(old) = &before.machine else {
            // The layers that are abandoned are frozen as an undo point.
            return tidy(&self.ctx, &held.folder, &held.record);
        };
        self.ctx.reached("layers-made");
        if let Order::EndFirst { why, rehearsal } = &before.order {
            rehearsal.map_or(Ok(()), |seat| self.rehearse(target, seat))?;
            self.ctx.note(Note::EndedFirst { why: why.clone() });
            end_vm(&**old, &held.folder)?;
            self.ctx.reached("old-ended");
        } else if before.guest == Old::Running {
            made.old_guard = Some(Guard::begin(&self.ctx, &held.folder.pinned())?);
        }
        // An undo point will need that, at a time when a guest waits for it.
        made.synced.push(self.sync_active(held));
        self.ctx.reached("sync-begun");
        if before.stays().is_some() { Ok(()) } else { tidy(&self.ctx, &held.folder, &held.record) }
    }

    fn sync_active(&self, held: &Held) -> SyncAhead {
        let layers = held.record.disks.iter().map(|disk| held.folder.layer(&disk.name, &disk.active));
        SyncAhead::begin(held.folder.files(), layers.collect())
    }

    fn ports_of(&self, before: &Before) -> BTreeMap<u16, u16> {
        before.stays().map(|machine| ports_in_use(machine.run())).unwrap_or_default()
    }

    /// Commits the restore and lets the guest run. Gives the name of the undo point.
    pub(super) fn settle(
        &self,
        request: &SnapshotRestore,
        held: &Held,
        plan: &Plan,
        before: &Before,
        made: &mut Made,
    ) -> Result<Option<String>> {
        let folder = new_folder(held, before);
        if let Some(Brought { started, .. }) = &made.brought
            && !started.machine.is_alive()
        {
            return Err(qemu_ended(&*started.machine, &folder));
        }
        self.stop_old(held, before, made)?;
        let synced = made.synced();
        if !request.discard_current {
            synced?;
        }
        let succession = before.succession(made.brought.as_ref());
        let (redo_plan, undo_name) = self.decide(request, held, plan, before.guest)?;
        let redo_plan = RedoPlan { succession, ..redo_plan };
        let guard = made.brought.as_mut().and_then(|brought| brought.guard.take());
        let guard = guard.map(|guard| self.armed(guard)).transpose()?;
        if let Some(Brought { started, .. }) = &mut made.brought {
            // Once more, since much time can have passed: the old guest is given up for one that answers.
            if started.monitor()?.is_gone() {
                return Err(qemu_ended(&*started.machine, &folder));
            }
            // Letting the guest run is part of what the commit carries out, on a connection of its own.
            started.disconnect();
        }
        let committed = self.ledger(&held.folder).commit(OPERATION, &redo_plan);
        committed.map_err(|error| explained(error, &folder))?;
        // Not reached where the commit is not complete: the guards then act once their pipes close.
        guard.into_iter().chain(made.old_guard.take()).for_each(Guard::disarm);
        Ok(undo_name)
    }

    /// Has the old guest stand still, under a guard, and its disks written out. From here on it is either let go again or
    /// ended.
    fn stop_old(&self, held: &Held, before: &Before, made: &mut Made) -> Result<()> {
        let Some(old) = before.stays() else { return Ok(()) };
        // One that stands still already is told, too: QEMU then writes out what it has of the disks.
        stop_under_guard(old, made.old_guard.as_mut())?;
        self.ctx.reached("old-stopped");
        made.synced.push(self.sync_active(held));
        Ok(())
    }

    /// A guard that lets the guest run if this process dies once the restore is decided.
    fn armed(&self, mut guard: Guard) -> Result<Guard> {
        guard.wait_ready()?;
        guard.arm(Watch::Commit)?;
        self.ctx.reached("guard-armed");
        Ok(guard)
    }
}

/// Has a guest stand still. Its place is wanted, and the one that is to have it is there: a QEMU that hangs is ended, and
/// one that has ended is none the worse.
fn stop_under_guard(old: &dyn Machine, guard: Option<&mut Guard>) -> Result<()> {
    if let Some(guard) = guard
        && let Err(error) = guard.wait_ready().and_then(|()| guard.arm(Watch::Undecided))
        && old.is_alive()
    {
        return Err(error);
    }
    if let Err(error) = old.channel(Use::Operation).and_then(|monitor| monitor.stop()) {
        tracing::info!("the old QEMU does not stop its guest, and is ended: {}", error.in_one_line());
        old.kill()?;
    }
    Ok(())
}

/// The VM's folder, with the seat of the new QEMU.
fn new_folder(held: &Held, before: &Before) -> VmFolder {
    match before.order {
        Order::Beside { seat, .. } => held.folder.at_seat(seat),
        Order::Off | Order::Nothing { .. } | Order::EndFirst { .. } => held.folder.clone(),
    }
}

/// A disk with the layers of a new delta: the delta, then those that it lies on.
fn chain_on(held: &Held, overlay: &Overlay) -> (String, Vec<LayerId>) {
    let below = held.record.disk(&overlay.disk).zip(overlay.parent.as_ref());
    let below = below.and_then(|(disk, parent)| disk.chain(parent)).unwrap_or_default();
    (overlay.disk.clone(), [vec![overlay.layer.clone()], below].concat())
}
