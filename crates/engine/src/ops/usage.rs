//! What VMs and snapshots take in the store: alone, and together with others.

use serde::Serialize;
use vmrewind_store::{ImageId, SetUsage};

use crate::context::Note;
use crate::engine::Operation;
use crate::error::{ErrorKind, Result};
use crate::ids::VmName;
use crate::images::{image_id, store_error};
use crate::record::snapshot::MemoryRecord;
use crate::root::file::allocated_bytes;
use crate::view::SnapshotView;

/// What a root takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UsageView {
    /// What the store's files take, all together.
    pub stored_bytes: u64,
    /// What disk layers take.
    pub layer_bytes: u64,
    /// The VMs.
    pub vms: Vec<VmUsage>,
}

/// What one VM takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmUsage {
    /// Its name.
    pub vm: String,
    /// What its disk layers take.
    pub layer_bytes: u64,
    /// Memory of all its snapshots, as the guests saw it.
    pub logical_bytes: u64,
    /// What the store keeps for this VM alone.
    pub exclusive_bytes: u64,
    /// What the store keeps for this VM and for others.
    pub shared_bytes: u64,
    /// Its snapshots that have memory.
    pub snapshots: Vec<SnapshotUsage>,
}

/// What the memory of one snapshot takes in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotUsage {
    /// Its name.
    pub name: String,
    /// Memory as the guest saw it, and device state.
    pub logical_bytes: u64,
    /// What the store keeps for this snapshot alone: deleting it frees that, after `gc`.
    pub exclusive_bytes: u64,
    /// What the store keeps for this snapshot and for others.
    pub shared_bytes: u64,
}

/// A VM's snapshots with memory.
struct Listed {
    vm: VmName,
    layer_bytes: u64,
    names: Vec<String>,
    images: Vec<ImageId>,
}

impl Operation {
    /// What these VMs take, or all. Sharing counts all VMs of the root, whichever are asked for.
    ///
    /// # Errors
    /// `NotFound`; `Damaged` where a VM can't be read.
    pub fn usage(&self, vms: &[VmName]) -> Result<UsageView> {
        let all = self.list_images(vms)?;
        for vm in vms.iter().filter(|vm| !all.iter().any(|listed| listed.vm == **vm)) {
            // Says that there is none.
            self.look(vm)?;
        }
        let failed = |error| store_error("cannot tell what snapshots take", error);
        let mut reader = self.store.usage();
        let of_vms =
            reader.of(&all.iter().map(|listed| listed.images.clone()).collect::<Vec<_>>()).map_err(failed)?;
        let singles: Vec<Vec<ImageId>> =
            all.iter().flat_map(|listed| listed.images.iter().map(|image| vec![image.clone()])).collect();
        let mut of_snapshots = reader.of(&singles).map_err(failed)?.into_iter();
        let mut shown = Vec::new();
        for (listed, usage) in all.iter().zip(of_vms) {
            let snapshots: Vec<SnapshotUsage> =
                listed.names.iter().zip(of_snapshots.by_ref()).map(snapshot_usage).collect();
            if vms.is_empty() || vms.contains(&listed.vm) {
                shown.push(VmUsage {
                    vm: listed.vm.to_string(),
                    layer_bytes: listed.layer_bytes,
                    logical_bytes: usage.logical_bytes,
                    exclusive_bytes: usage.exclusive_bytes,
                    shared_bytes: usage.shared_bytes,
                    snapshots,
                });
            }
        }
        let stored_bytes = self.store.stored_bytes().map_err(failed)?;
        Ok(UsageView { stored_bytes, layer_bytes: shown.iter().map(|vm| vm.layer_bytes).sum(), vms: shown })
    }

    /// Adds to views of snapshots what each one's memory takes in the store, beside all others of the root. What can't be
    /// told, where the store is damaged for instance, is left out: `check` is for that.
    pub(crate) fn add_usage<'a>(&self, views: impl Iterator<Item = (&'a mut SnapshotView, &'a str)>) {
        let with_memory =
            views.filter_map(|(view, image)| Some((view.memory.as_mut()?, image_id(image).ok()?)));
        let (memories, images): (Vec<_>, Vec<ImageId>) = with_memory.unzip();
        let Ok(mut others) = self.store.images() else { return };
        others.retain(|other| !images.contains(other));
        let sets: Vec<Vec<ImageId>> = images.into_iter().map(|image| vec![image]).chain([others]).collect();
        let Ok(usages) = self.store.usage().of(&sets) else { return };
        for (memory, usage) in memories.into_iter().zip(usages) {
            memory.exclusive_bytes = Some(usage.exclusive_bytes);
            memory.shared_bytes = Some(usage.shared_bytes);
        }
    }

    /// What goes with these memory images, once `gc` has run: what no other image needs. Where that can't be told, since the
    /// store is damaged for instance, what they added when they were made.
    pub(crate) fn bytes_of_images_alone(&self, memories: &[&MemoryRecord]) -> u64 {
        if memories.is_empty() {
            return 0;
        }
        let alone = || {
            let images =
                memories.iter().map(|memory| image_id(&memory.image)).collect::<Result<Vec<_>>>().ok()?;
            let mut others = self.store.images().ok()?;
            others.retain(|other| !images.contains(other));
            Some(self.store.usage().of(&[images, others]).ok()?.first()?.exclusive_bytes)
        };
        alone().unwrap_or_else(|| memories.iter().map(|memory| memory.stored_bytes).sum())
    }

    /// All VMs that can be read; one of `vms` that can't be is an error.
    fn list_images(&self, vms: &[VmName]) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for vm in self.root.vm_names()? {
            let seen = match self.look(&vm) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) if !vms.contains(&vm) => {
                    self.ctx.note(Note::LeftOut { vm: vm.to_string(), error: error.in_one_line() });
                    continue;
                }
                seen => seen?,
            };
            let layers = seen.record.disks.iter().flat_map(|disk| {
                disk.layers.iter().map(|layer| allocated_bytes(&seen.folder.layer(&disk.name, &layer.id)))
            });
            let mut listed = Listed { layer_bytes: layers.sum(), vm, names: Vec::new(), images: Vec::new() };
            for manifest in &seen.snapshots.sound {
                if let Some(memory) = &manifest.memory {
                    listed.names.push(manifest.name.to_string());
                    listed.images.push(image_id(&memory.image)?);
                }
            }
            all.push(listed);
        }
        Ok(all)
    }
}

fn snapshot_usage((name, usage): (&String, SetUsage)) -> SnapshotUsage {
    SnapshotUsage {
        name: name.clone(),
        logical_bytes: usage.logical_bytes,
        exclusive_bytes: usage.exclusive_bytes,
        shared_bytes: usage.shared_bytes,
    }
}
