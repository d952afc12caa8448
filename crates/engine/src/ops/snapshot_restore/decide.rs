//! What a restore decides: the VM's new record, and what becomes of the state that it had.

use std::collections::{BTreeMap, BTreeSet};

use super::{Old, Plan, SnapshotRestore};
use crate::engine::{Held, Operation};
use crate::error::Result;
use crate::ids::SnapshotId;
use crate::layers::clones::clones_of;
use crate::layers::needs::{Reader, readers};
use crate::layers::qcow2;
use crate::record::RECORD_VERSION;
use crate::record::journal::{Overlay, RedoPlan};
use crate::record::snapshot::{FrozenDisk, Grade, Manifest, Method, Origin};
use crate::record::vm::VmRecord;

impl Operation {
    /// The decided state: the VM on the new layers; those that nobody else reads kept as an undo point or discarded.
    pub(super) fn decide(
        &self,
        request: &SnapshotRestore,
        held: &Held,
        plan: &Plan,
        old: Old,
    ) -> Result<(RedoPlan, Option<String>)> {
        let Abandoned { mut record, layers: abandoned, is_kept } = abandoned(request, held, plan)?;
        let discard = !is_kept;
        let undo = if discard { None } else { Some(self.undo_point(held, old)?) };
        let undo_name = undo.as_ref().map(|manifest| format!("{}@{}", held.record.name, manifest.name));
        // A manifest that can't be read may name any of them.
        let may_go = held.snapshots.damaged.is_empty();
        let remove_layers = if discard && may_go { abandoned } else { Vec::new() };
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
            vm_id: Some(held.record.id.clone()),
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
            guest_running: matches!(old, Old::Running | Old::Silent),
            hardware: held.record.hardware.clone(),
            disks: held.record.disks.iter().map(|disk| FrozenDisk::of(&held.folder, disk)).collect(),
            memory: None,
        })
    }
}

/// The VM's new record, and the layers that its present state leaves behind.
pub(super) struct Abandoned {
    record: VmRecord,
    /// Those that nothing else reads.
    pub(super) layers: Vec<Overlay>,
    /// Whether they are kept as an undo point: not where they hold nothing.
    pub(super) is_kept: bool,
}

/// Finds what a restore leaves behind.
pub(super) fn abandoned(request: &SnapshotRestore, held: &Held, plan: &Plan) -> Result<Abandoned> {
    let mut record: VmRecord = held.record.clone();
    record.hardware = plan.snapshot.hardware.clone();
    record.current = Some(plan.snapshot.id.clone());
    for overlay in &plan.overlays {
        if let Some(disk) = record.disks.iter_mut().find(|disk| disk.name == overlay.disk) {
            disk.push_active(overlay.layer.clone(), overlay.parent.clone());
        }
    }
    let layers = layers_without_reader(&record, held)?;
    let is_kept = !request.discard_current && layers.iter().any(|layer| !is_empty(held, layer));
    Ok(Abandoned { record, layers, is_kept })
}

/// The layers that neither the VM's present state nor a clone or a snapshot that can be read reads through.
fn layers_without_reader(record: &VmRecord, held: &Held) -> Result<Vec<Overlay>> {
    let clones = clones_of(&held.folder, &record.id)?;
    let readers = readers(record, &held.snapshots, &clones, &BTreeSet::new());
    let is_known = |reader: &Reader| !matches!(reader, Reader::Damaged(_));
    let unread = readers.into_iter().filter(|(_, readers)| !readers.iter().any(is_known));
    Ok(unread.map(|((disk, layer), _)| Overlay { disk, layer, parent: None }).collect())
}

/// Whether a layer holds no data at all. One that can't be read counts as holding some.
fn is_empty(held: &Held, layer: &Overlay) -> bool {
    qcow2::is_empty(&held.folder.layer(&layer.disk, &layer.layer)).unwrap_or(false)
}
