//! Deletes a VM with all its snapshots; never the user's base images.
//!
//! The VM goes by one rename to `.gone-ID`; what is left of such a folder after a crash the next command removes.

use std::fs;

use serde::Serialize;

use vmrewind_store::Store;

use crate::end_vm::end_vm;
use crate::engine::{Engine, HeldVm, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::{SnapshotId, VmName};
use crate::images::remove_image;
use crate::layers::clones::clones_of;
use crate::record::snapshot::Origin;
use crate::record::snapshots::Snapshots;
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::root::file::{allocated_bytes, io_error};
use crate::vm::run_folder;
use crate::vm_lock::VmLock;

/// What deleting a VM destroys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmDeletePlan {
    /// The VM.
    pub vm: String,
    /// Its snapshots' names.
    pub snapshots: Vec<String>,
    /// The bytes of deltas and memory images.
    pub bytes: u64,
    /// The base images, which stay.
    pub kept: Vec<String>,
    /// Whether it runs and would be stopped first.
    pub running: bool,
}

impl Operation {
    /// What deleting the VM would destroy; nothing is done.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn vm_delete_plan(&self, name: &VmName) -> Result<VmDeletePlan> {
        let held = self.hold_vm(name)?;
        refuse_cloned(&held.folder, &held.record)?;
        plan(self, &held)
    }

    /// Deletes a VM. One that runs is refused, or stopped first with `force`.
    ///
    /// # Errors
    /// `Refused` where it runs or clones read its layers, `NotFound`.
    pub fn vm_delete(&self, name: &VmName, force: bool) -> Result<VmDeletePlan> {
        let locked = self.lock(name)?;
        // Who reads its layers is known without recovery; nobody can begin to while the lock is held.
        if let Ok(record) = VmRecord::load(&locked.folder, name) {
            refuse_cloned(&locked.folder, &record)?;
        }
        let machine = self.ctx.machines().find(&locked.folder)?;
        match &machine {
            // Before anything else: this must work also where QEMU hangs.
            Some(machine) if force => end_vm(&**machine, &locked.folder)?,
            Some(machine) => {
                return Err(Error::refused(format!("VM '{name}' runs (pid {})", machine.mark().pid))
                    .with_hint(Hint::StopOrForceDelete { vm: name.to_string() }));
            }
            None => {}
        }
        let deleted = self.recovered(name, locked).and_then(|held| self.delete_held(&held));
        deleted.map_err(|error| if machine.is_some() { error.with_kind(ErrorKind::Partial) } else { error })
    }

    fn delete_held(&self, held: &HeldVm) -> Result<VmDeletePlan> {
        let plan = plan(self, held)?;
        let name = &held.record.name;
        let (files, gone) = (self.root.files(), self.root.gone(&held.record.id));
        files
            .rename(held.folder.path(), gone.path())
            .map_err(|error| io_error(&format!("cannot delete VM '{name}'"), error))?;
        files.sync_dir(&self.root.vms()).and_then(|()| sweep_gone(&self.store, &gone)).map_err(|error| {
            error
                .while_doing(format!("VM '{name}' is gone, but not all of its files"))
                .with_kind(ErrorKind::Partial)
                .with_hint(Hint::NextRemoves)
        })?;
        Ok(plan)
    }
}

impl Engine {
    /// Removes what crashed commands left of VMs that were never whole or are deleted. Failures can wait.
    pub(crate) fn sweep_gone_vms(&self) {
        for folder in self.root.vm_folders().unwrap_or_default() {
            let name = folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(".gone-") {
                let _ = sweep_gone(&self.store, &folder);
            } else if name.starts_with(".new-") && abandoned(&folder) {
                let _ = self.root.files().remove_tree(folder.path());
            }
        }
    }
}

/// Removes a deleted VM: its images first, whose names only its folder has.
fn sweep_gone(store: &Store, gone: &VmFolder) -> Result<()> {
    // By file name, which is the id of snapshot and image both: a damaged manifest must not keep a VM from going.
    for entry in fs::read_dir(gone.snapshots()).into_iter().flatten().filter_map(std::result::Result::ok) {
        let path = entry.path();
        let id =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<SnapshotId>().ok());
        if let Some(id) = id {
            remove_image(store, id.as_str())?;
        }
    }
    run_folder::remove_short(gone);
    gone.files().remove_tree(gone.path())
}

/// Refuses a VM on whose layers others lie.
fn refuse_cloned(folder: &VmFolder, record: &VmRecord) -> Result<()> {
    let clones = clones_of(folder, &record.id)?;
    let needing = clones.iter().filter(|clone| !clone.layers.is_empty() || clone.needs_memory);
    let names: Vec<String> = needing.map(|clone| format!("'{}'", clone.name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "VM '{}' can't be deleted: its clones read its snapshots: {}",
        record.name,
        names.join(", ")
    ))
    .with_hint(Hint::DeleteClones))
}

/// Whether a draft folder's command has died. A very young one can be about to take its lock.
fn abandoned(draft: &VmFolder) -> bool {
    let modified = fs::metadata(draft.path()).and_then(|metadata| metadata.modified());
    let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 10));
    old && matches!(VmLock::try_take(&draft.lock()), Ok(Some(_)))
}

fn plan(operation: &Operation, held: &HeldVm) -> Result<VmDeletePlan> {
    let layers = held.record.disks.iter().flat_map(|disk| {
        disk.layers.iter().map(|layer| allocated_bytes(&held.folder.layer(&disk.name, &layer.id)))
    });
    // A VM whose manifests are damaged can be deleted all the same.
    let snapshots = Snapshots::load(&held.folder).unwrap_or_default();
    let images: Vec<_> = snapshots.sound.iter().filter_map(|snapshot| snapshot.memory.as_ref()).collect();
    let names = snapshots.sound.iter().filter(|snapshot| snapshot.origin == Origin::User);
    let bases = held.record.disks.iter().map(|disk| &disk.base.location);
    let own = held.folder.path().display().to_string();
    Ok(VmDeletePlan {
        vm: held.record.name.to_string(),
        snapshots: names.map(|snapshot| snapshot.name.to_string()).collect(),
        bytes: layers.sum::<u64>() + operation.bytes_of_images_alone(&images),
        kept: bases.filter(|location| !location.starts_with(&own)).cloned().collect(),
        running: operation.ctx.machines().find(&held.folder)?.is_some(),
    })
}
