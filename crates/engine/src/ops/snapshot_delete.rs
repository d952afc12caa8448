//! Deletes snapshots whose layers nothing else reads through, and frees their space.
//!
//! Plan: who reads which layer is worked out as if the snapshots were gone. Where a layer of theirs is still needed
//! the whole request is refused, naming who needs it. Apply: one commit; what is removed is removed again after a crash.
//!
//! A snapshot whose manifest can't be read is deleted by its id. Which layers were its own is not known: those go that
//! nobody else reads. As long as it is there it counts as reading all.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::engine::{Held, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::{Address, LayerId, SnapshotId};
use crate::layers::clones::{CloneOf, clones_of};
use crate::layers::needs::{Reader, readers};
use crate::lazy;
use crate::record::journal::{Overlay, RedoPlan};
use crate::record::snapshot::Manifest;
use crate::record::snapshots::{DamagedManifest, Found};
use crate::root::file::allocated_bytes;

/// What deleting snapshots destroys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeletePlan {
    /// The snapshots, `VM@NAME`.
    pub snapshots: Vec<String>,
    /// The files of disk layers that go.
    pub layers: Vec<String>,
    /// How many memory images go.
    pub images: usize,
    /// The bytes that are freed: those of layers at once, those of memory by the next `gc`.
    pub bytes: u64,
}

impl Operation {
    /// What deleting these snapshots of one VM would destroy; nothing is done.
    ///
    /// # Errors
    /// As [`Engine::snapshot_delete`].
    pub fn snapshot_delete_plan(&self, addresses: &[Address]) -> Result<DeletePlan> {
        let held = self.hold_all(addresses)?;
        Ok(plan(self, &held, addresses, StillRead::Refuse)?.0)
    }

    /// Deletes snapshots of one VM, all or none; those whose manifests can't be read by their ids.
    ///
    /// # Errors
    /// `Refused` where something still reads through a layer of theirs, naming it; `NotFound`, `Busy`; `Usage` for
    /// snapshots of several VMs.
    pub fn snapshot_delete(&self, addresses: &[Address]) -> Result<DeletePlan> {
        let held = self.hold_all(addresses)?;
        let (plan, redo) = plan(self, &held, addresses, StillRead::Refuse)?;
        self.ledger(&held.folder).commit("snapshot delete", &redo)?;
        Ok(plan)
    }

    /// Takes a snapshot off the list and frees its memory. Layers of it that are still read stay, as layers of those who
    /// read them, and go with these. Where an id is given, only if that is the snapshot with it.
    ///
    /// # Errors
    /// `Refused` where a clone that was not started yet needs its memory; `NotFound`, `Busy`.
    pub fn snapshot_drop(&self, address: &Address, only_id: Option<&SnapshotId>) -> Result<DeletePlan> {
        let addresses = std::slice::from_ref(address);
        let held = self.hold_all(addresses)?;
        held.snapshots.by_name_if(&held.record, &address.snapshot, only_id)?;
        let (plan, redo) = plan(self, &held, addresses, StillRead::Keep)?;
        self.ledger(&held.folder).commit("snapshot delete", &redo)?;
        Ok(plan)
    }

    fn hold_all(&self, addresses: &[Address]) -> Result<Held> {
        let Some(first) = addresses.first() else { return Err(Error::usage("no snapshot is named")) };
        if addresses.iter().any(|address| address.vm != first.vm) {
            return Err(Error::usage("the snapshots are of several VMs").with_hint(Hint::OneVmAtATime));
        }
        self.hold(&first.vm)
    }
}

/// What to do about a layer that somebody still reads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StillRead {
    /// Refuse the whole request: no space would be freed.
    Refuse,
    /// Leave the layer to its readers.
    Keep,
}

fn plan(
    operation: &Operation,
    held: &Held,
    addresses: &[Address],
    still_read: StillRead,
) -> Result<(DeletePlan, RedoPlan)> {
    let doomed = Doomed::find(held, addresses)?;
    let ids = doomed.ids();
    refuse_served(held, &ids)?;
    let clones = clones_of(&held.folder, &held.record.id)?;
    ids.iter().try_for_each(|id| refuse_cloned(held, id, &clones))?;
    let readers = readers(&held.record, &held.snapshots, &clones, &ids);
    if still_read == StillRead::Refuse {
        let readers_of = |disk: &str, layer: &LayerId| {
            readers.get(&(disk.to_owned(), layer.clone())).cloned().unwrap_or_default()
        };
        doomed.sound.iter().try_for_each(|manifest| refuse_needed(held, manifest, readers_of))?;
    }
    let mut record = held.record.clone();
    let mut remove_layers = Vec::new();
    for ((disk, layer), _) in readers.iter().filter(|(_, readers)| readers.is_empty()) {
        remove_layers.push(Overlay { disk: disk.clone(), layer: layer.clone(), parent: None });
        if let Some(disk) = record.disks.iter_mut().find(|record| record.name == *disk) {
            disk.forget(layer);
        }
    }
    let survivor = |mut id: Option<SnapshotId>| {
        // As many steps as there are snapshots: parents of a damaged record could go in a ring.
        for _ in 0..=ids.len() {
            let Some(gone) = id.as_ref().filter(|id| ids.contains(*id)) else { break };
            id = held.snapshots.by_id(gone).and_then(|manifest| manifest.parent.clone());
        }
        id
    };
    record.current = survivor(record.current.clone());
    let orphans = held.snapshots.sound.iter().filter(|manifest| !ids.contains(&manifest.id));
    let write = orphans
        .filter(|manifest| manifest.parent.as_ref().is_some_and(|parent| ids.contains(parent)))
        .map(|manifest| Manifest { parent: survivor(manifest.parent.clone()), ..manifest.clone() })
        .collect();
    let images: Vec<_> = doomed.sound.iter().filter_map(|manifest| manifest.memory.as_ref()).collect();
    let mut remove_images: Vec<String> = images.iter().map(|memory| memory.image.clone()).collect();
    // Whether there was memory is not known; its image would have the snapshot's id. `gc` finds what is missed here.
    let stored = operation.store.images().unwrap_or_default();
    let damaged = doomed.damaged.iter().map(|damaged| damaged.id.as_str());
    remove_images
        .extend(damaged.filter(|id| stored.iter().any(|image| image.as_str() == *id)).map(str::to_owned));
    let paths: Vec<_> = remove_layers.iter().map(|gone| held.folder.layer(&gone.disk, &gone.layer)).collect();
    let shown = DeletePlan {
        snapshots: doomed.names().iter().map(|name| format!("{}@{name}", held.record.name)).collect(),
        layers: paths.iter().map(|path| path.display().to_string()).collect(),
        images: remove_images.len(),
        bytes: paths.iter().map(|path| allocated_bytes(path)).sum::<u64>()
            + operation.bytes_of_images_alone(&images),
    };
    let redo = RedoPlan {
        write,
        remove: ids.iter().cloned().collect(),
        remove_layers,
        remove_images,
        ..RedoPlan::of(record)
    };
    Ok((shown, redo))
}

/// The snapshots that are to go, each once.
#[derive(Default)]
struct Doomed<'a> {
    sound: Vec<&'a Manifest>,
    damaged: Vec<&'a DamagedManifest>,
}

impl<'a> Doomed<'a> {
    fn find(held: &'a Held, addresses: &[Address]) -> Result<Self> {
        let mut doomed = Self::default();
        for address in addresses {
            match held.snapshots.find(&held.record, &address.snapshot)? {
                Found::Sound(manifest) if doomed.sound.iter().any(|other| other.id == manifest.id) => {}
                Found::Damaged(damaged) if doomed.damaged.iter().any(|other| other.id == damaged.id) => {}
                Found::Sound(manifest) => doomed.sound.push(manifest),
                Found::Damaged(damaged) => {
                    damaged.refuse_newer(&held.record)?;
                    doomed.damaged.push(damaged);
                }
            }
        }
        Ok(doomed)
    }

    fn ids(&self) -> BTreeSet<SnapshotId> {
        let sound = self.sound.iter().map(|manifest| &manifest.id);
        sound.chain(self.damaged.iter().map(|damaged| &damaged.id)).cloned().collect()
    }

    fn names(&self) -> Vec<String> {
        let sound = self.sound.iter().map(|manifest| manifest.name.to_string());
        sound.chain(self.damaged.iter().map(|damaged| damaged.id.to_string())).collect()
    }
}

/// What messages call a snapshot: its name, or its id where its manifest can't be read.
fn name_of(held: &Held, id: &SnapshotId) -> String {
    held.snapshots.by_id(id).map_or_else(|| id.to_string(), |manifest| manifest.name.to_string())
}

/// Refuses a snapshot whose memory the first start of a clone is to go on with.
fn refuse_cloned(held: &Held, id: &SnapshotId, clones: &[CloneOf]) -> Result<()> {
    let needed = clones.iter().filter(|clone| clone.needs_memory_of(id, held.snapshots.by_id(id)));
    let names: Vec<String> = needed.map(|clone| format!("'{}'", clone.name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "snapshot '{}@{}' can't be deleted: VM {}, cloned from it, was not started yet and needs its memory",
        held.record.name,
        name_of(held, id),
        names.join(", ")
    ))
    .with_hint(Hint::StartOrDeleteClones))
}

/// Refuses a snapshot while the guest still gets its memory from it.
fn refuse_served(held: &Held, doomed: &BTreeSet<SnapshotId>) -> Result<()> {
    let Some(served) = lazy::under_way(&held.folder).filter(|served| doomed.contains(&served.snapshot))
    else {
        return Ok(());
    };
    let vm = &held.record.name;
    Err(Error::new(
        ErrorKind::Busy,
        format!("snapshot '{vm}@{}' can't be deleted: VM '{vm}' still gets its memory from it", served.name),
    )
    .with_hint(Hint::WaitForMemory { vm: vm.to_string() }))
}

/// Refuses a snapshot while somebody reads through its own layers.
fn refuse_needed(
    held: &Held,
    manifest: &Manifest,
    readers_of: impl Fn(&str, &LayerId) -> BTreeSet<Reader>,
) -> Result<()> {
    let needed: BTreeSet<Reader> =
        manifest.disks.iter().flat_map(|disk| readers_of(&disk.name, &disk.layer)).collect();
    if needed.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = needed.iter().map(ToString::to_string).collect();
    Err(Error::refused(format!(
        "snapshot '{}@{}' can't be deleted: its disk layers are still read by {}",
        held.record.name,
        manifest.name,
        names.join(", ")
    ))
    .with_hint(Hint::DeleteReaders))
}

#[cfg(test)]
mod tests;
