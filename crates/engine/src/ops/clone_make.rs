//! The folders of clones: drafts filled at once, then given their names.
//!
//! ```text
//!  .new-ID/lock  layers/DISK/ID.qcow2  snapshots/  vm.json      each file and folder synced
//!     '-- renamed to NAME; the folder of VMs synced once all are
//! ```
//! A crash leaves drafts, which the next command removes, and clones, each of them whole.

use crate::engine::{Held, Operation};
use crate::error::{ErrorKind, Result};
use crate::identity::Identity;
use crate::ids::{LayerId, VmId, VmName};
use crate::layers::{base, overlay};
use crate::ops::vm_clone::{VmClone, first_start};
use crate::parallel;
use crate::record::RECORD_VERSION;
use crate::record::journal::Overlay;
use crate::record::snapshot::Manifest;
use crate::record::vm::{BaseLayer, BaseRecord, CloneOrigin, DiskRecord, LayerRecord, VmRecord};
use crate::root::VmFolder;
use crate::vm::run_folder;
use crate::vm_lock::VmLock;

/// A clone that is being made. Its lock is held until it is dropped.
struct Draft {
    folder: VmFolder,
    record: VmRecord,
    _lock: Option<VmLock>,
}

/// What clones are made of.
pub(super) struct Making<'a> {
    /// What was asked for.
    pub(super) request: &'a VmClone,
    /// The parent, held.
    pub(super) held: &'a Held,
    /// The snapshot.
    pub(super) snapshot: &'a Manifest,
}

impl Operation {
    /// Makes all drafts and lets them appear. A failure before the first one appears leaves nothing.
    pub(super) fn make_clones(
        &self,
        making: &Making<'_>,
        identities: Vec<(VmName, Identity)>,
    ) -> Result<Vec<VmRecord>> {
        let bases = bases(making)?;
        let records = identities.into_iter().map(|identity| self.record_of(making, &bases, identity));
        let mut drafts: Vec<Draft> = Vec::new();
        let made = records.map(|record| self.begin(record)).try_for_each(|draft| {
            drafts.push(draft?);
            Ok(())
        });
        let filled = made.and_then(|()| self.fill_all(&drafts));
        if let Err(error) = filled {
            drafts.iter().for_each(|draft| drop(self.root.files().remove_tree(draft.folder.path())));
            return Err(error);
        }
        self.let_appear(drafts)
    }

    /// Makes a draft's folder, and takes its lock.
    fn begin(&self, record: VmRecord) -> Result<Draft> {
        let folder = self.root.draft(&record.id);
        folder.files().private_dir(folder.path())?;
        let lock = VmLock::try_take(&folder.lock())?;
        Ok(Draft { folder, record, _lock: lock })
    }

    fn fill_all(&self, drafts: &[Draft]) -> Result<()> {
        let filled = parallel::each(drafts, |draft| {
            self.check_cancel("making clones")?;
            fill(draft)?;
            self.ctx.reached("draft-made");
            Ok(())
        });
        filled.into_iter().collect()
    }

    /// Gives the drafts their names.
    fn let_appear(&self, drafts: Vec<Draft>) -> Result<Vec<VmRecord>> {
        let mut appeared = Vec::new();
        let mut failed = None;
        for draft in drafts {
            if failed.is_none() {
                failed = self.rename_draft(&draft.record.name, &draft.folder).err();
            }
            if failed.is_some() {
                let _ = self.root.files().remove_tree(draft.folder.path());
                continue;
            }
            self.ctx.reached("clone-appeared");
            let _ = run_folder::prepare(&self.root.vm(&draft.record.name), &draft.record.id);
            appeared.push(draft.record);
        }
        match failed.or(self.root.files().sync_dir(&self.root.vms()).err()) {
            None => Ok(appeared),
            Some(error) if appeared.is_empty() => Err(error),
            Some(error) => {
                let names: Vec<&str> = appeared.iter().map(|record| record.name.as_str()).collect();
                Err(error
                    .while_doing(format!("not all clones were made, only {}", names.join(", ")))
                    .with_kind(ErrorKind::Partial))
            }
        }
    }

    /// The record of one clone.
    fn record_of(
        &self,
        making: &Making<'_>,
        bases: &[(String, BaseRecord)],
        (name, identity): (VmName, Identity),
    ) -> VmRecord {
        let on_base = |(disk, base): &(String, BaseRecord)| {
            let layer = LayerId::random(&self.ctx.host);
            let layers = vec![LayerRecord { id: layer.clone(), parent: None, frozen: None }];
            DiskRecord { name: disk.clone(), base: base.clone(), layers, active: layer }
        };
        VmRecord {
            version: RECORD_VERSION,
            id: VmId::random(&self.ctx.host),
            name,
            created: self.ctx.now(),
            hardware: identity.hardware,
            disks: bases.iter().map(on_base).collect(),
            media: making.held.record.media.clone(),
            current: None,
            origin: Some(CloneOrigin {
                vm: making.held.record.name.clone(),
                vm_id: making.held.record.id.clone(),
                snapshot: making.snapshot.name.clone(),
                snapshot_id: making.snapshot.id.clone(),
            }),
            first_start: first_start(making.request, making.snapshot),
        }
    }
}

/// The snapshot's frozen layers as bases. The whole chain below each must be there.
fn bases(making: &Making<'_>) -> Result<Vec<(String, BaseRecord)>> {
    let (held, snapshot) = (making.held, making.snapshot);
    let doing = || format!("snapshot '{}@{}' can't be cloned", held.record.name, snapshot.name);
    let mut bases = Vec::new();
    for frozen in &snapshot.disks {
        held.check_chain(&frozen.name, &frozen.layer).map_err(|error| error.while_doing(doing()))?;
        let layer = BaseLayer {
            vm: held.record.name.clone(),
            vm_id: held.record.id.clone(),
            disk: frozen.name.clone(),
            layer: frozen.layer.clone(),
        };
        let record = base::of_layer(&held.folder, layer).map_err(|error| error.while_doing(doing()))?;
        bases.push((frozen.name.clone(), record));
    }
    Ok(bases)
}

/// Fills a draft's folder, durably.
fn fill(draft: &Draft) -> Result<()> {
    let folder = &draft.folder;
    folder.files().private_dir(&folder.snapshots())?;
    folder.files().private_dir(&folder.path().join("layers"))?;
    for disk in &draft.record.disks {
        overlay::make(
            folder,
            disk,
            &Overlay { disk: disk.name.clone(), layer: disk.active.clone(), parent: None },
        )?;
    }
    // The draft's own entries are synced with it.
    draft.record.save(folder)
}
