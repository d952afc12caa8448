//! Makes the record of a VM anew, from its manifests and layers: where `vm.json` is damaged, gone, or older than these.
//!
//! Plan: what is there is looked at, and what the record must say is worked out; it can be shown and nothing done. Apply:
//! the layers are synced, the old record is put aside as `vm.json.old`, the new one written whole. A crash leaves one of
//! the two, or none, and the next repair comes to the same end. Nothing else is changed, and no file is removed.

mod rebuild;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::engine::{Locked, Operation};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, VmId, VmName};
use crate::layers::qcow2::{self, Header};
use crate::layers::{base, frozen};
use crate::record::RECORD_VERSION;
use crate::record::journal::{Journal, Phase};
use crate::record::snapshots::Snapshots;
use crate::record::vm::{BaseLayer, CloneOrigin, DiskRecord, VmRecord};
use crate::root::VmFolder;
use rebuild::{Facts, rebuild};

/// How to repair.
#[derive(Debug, Clone, Default)]
pub struct VmRepair {
    /// Show what would be done, and do nothing.
    pub dry_run: bool,
    /// Layers that the VM is to write, where several could be the one.
    pub active: Vec<String>,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairView {
    /// The VM.
    pub vm: String,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// What the new record says that the old one did not.
    pub changes: Vec<String>,
    /// Where the old record is put; null where there is none, or nothing to change.
    pub old: Option<PathBuf>,
}

impl Operation {
    /// Makes the record of a VM that does not run fit its manifests and layers.
    ///
    /// # Errors
    /// `Refused` while it runs; `Damaged` where they do not tell enough.
    pub fn vm_repair(&self, name: &VmName, how: &VmRepair) -> Result<RepairView> {
        let chosen = how
            .active
            .iter()
            .map(|id| id.parse::<LayerId>().map_err(|error| error.with_kind(ErrorKind::Usage)));
        let chosen = chosen.collect::<Result<Vec<_>>>()?;
        let locked = self.lock(name)?;
        if self.ctx.machines().find(&locked.folder)?.is_some() {
            return Err(Error::refused(format!("VM '{name}' runs"))
                .with_hint(Hint::StopByForce { vm: name.to_string() }));
        }
        let journal = self.left_journal(&locked);
        let facts =
            self.facts(name, &locked.folder, chosen, journal.as_ref().ok().and_then(Option::as_ref))?;
        let mut record = rebuild(&facts)?;
        forget_first_start(&locked.folder, &mut record)?;
        let mut changes = changes(&facts, &record);
        if journal.is_err() {
            changes
                .push("journal.json can't be read: it is put aside, what was under way is not known".into());
        }
        changes.extend(mark(&locked.folder, &mut record, how.dry_run)?);
        let path = locked.folder.record();
        let aside = path.with_file_name("vm.json.old");
        let old = (!changes.is_empty() && path.symlink_metadata().is_ok()).then_some(aside);
        if !how.dry_run && !changes.is_empty() {
            self.carry_out_repair(&locked, &record, journal.is_err())?;
        }
        Ok(RepairView { vm: name.to_string(), dry_run: how.dry_run, changes, old })
    }

    /// The journal that a dead command has left and that can't be carried out, if there is one.
    fn left_journal(&self, locked: &Locked) -> Result<Option<Journal>> {
        // What it can do without the record, or with one that can be read, is done first.
        if self.ledger(&locked.folder).recover().is_ok() {
            return Ok(None);
        }
        Journal::load(&locked.folder)
    }

    fn facts(
        &self,
        name: &VmName,
        folder: &VmFolder,
        chosen: Vec<LayerId>,
        journal: Option<&Journal>,
    ) -> Result<Facts> {
        let snapshots = Snapshots::load(folder)?;
        let old = old_record(name, folder)?;
        let old_fits = old.as_ref().is_some_and(|old| {
            let whole = old.disks.iter().all(|disk| disk.chain(&disk.active).is_some());
            let there = old.disks.iter().all(|disk| folder.layer(&disk.name, &disk.active).exists());
            whole && there && frozen::check_not_older(folder, old, &snapshots).is_ok()
        });
        let names = old.iter().flat_map(|old| old.disks.iter().map(|disk| &disk.name));
        let named = snapshots.sound.iter().flat_map(|one| one.disks.iter().map(|disk| &disk.name));
        let files: BTreeMap<String, _> =
            names.chain(named).map(|disk| (disk.clone(), headers(folder, disk, journal))).collect();
        let origin = old.is_none().then(|| self.origin(folder, &files)).flatten();
        let known_id = self.known_id(name);
        Ok(Facts { name: name.clone(), old, old_fits, snapshots, files, known_id, origin, chosen })
    }

    /// The id by which clones of the VM know it.
    fn known_id(&self, name: &VmName) -> Option<VmId> {
        let others = self.root.vm_names().ok()?;
        let records = others.iter().filter_map(|other| VmRecord::load(&self.root.vm(other), other).ok());
        let bases = records.flat_map(|record| record.disks).filter_map(|disk| disk.base.layer);
        bases.into_iter().find(|layer| layer.vm == *name).map(|layer| layer.vm_id)
    }

    /// The snapshot of another VM on whose layers this one's lie.
    fn origin(
        &self,
        folder: &VmFolder,
        files: &BTreeMap<String, BTreeMap<LayerId, Option<Header>>>,
    ) -> Option<CloneOrigin> {
        let headers = files.values().flat_map(BTreeMap::values).flatten();
        let names: Vec<&String> = headers.filter_map(|header| header.backing_file.as_ref()).collect();
        let parent =
            names.iter().find_map(|name| name.strip_prefix("../../../")?.split('/').next()?.parse().ok());
        let vm: VmName = parent?;
        let record = VmRecord::read(&folder.neighbour(&vm)).ok()?;
        let below = names.iter().find_map(|name| BaseLayer::of_relative(name, vm.as_str()))?;
        let snapshots = Snapshots::load(&folder.neighbour(&vm)).ok()?;
        let of_layer = |frozen: &crate::record::snapshot::FrozenDisk| {
            (frozen.name.clone(), frozen.layer.clone()) == below
        };
        let snapshot = snapshots.sound.into_iter().find(|manifest| manifest.disks.iter().any(of_layer))?;
        Some(CloneOrigin { vm, vm_id: record.id, snapshot: snapshot.name, snapshot_id: snapshot.id })
    }

    fn carry_out_repair(&self, locked: &Locked, record: &VmRecord, damaged_journal: bool) -> Result<()> {
        let folder = &locked.folder;
        let aside = |path: PathBuf, name: &str| match folder.files().rename(&path, &path.with_file_name(name))
        {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(crate::root::file::io_error(&format!("cannot put '{}' aside", path.display()), error))
            }
            _ => Ok(()),
        };
        aside(folder.record(), "vm.json.old")?;
        record.save(folder)?;
        if damaged_journal {
            aside(folder.journal(), "journal.json.old")?;
            folder.files().sync_parent(&folder.journal())?;
        }
        // With a record it can be carried out.
        self.ledger(folder).recover().map(drop)
    }
}

/// The record that is there, if it can be read at all.
fn old_record(name: &VmName, folder: &VmFolder) -> Result<Option<VmRecord>> {
    match folder.files().read_json::<VmRecord>(&folder.record(), RECORD_VERSION) {
        // Its snapshots would have the same memory images as the other VM's, and each could delete those of both.
        Ok(Some(record)) if record.name != *name => Err(Error::refused(format!(
            "'{}' is the record of VM '{}': a VM that was copied by hand can't be told from the first",
            folder.record().display(),
            record.name
        ))
        .with_hint(Hint::PutRecordBack)),
        Ok(record) => Ok(record),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(None),
        Err(error) => Err(error),
    }
}

/// The layers of a disk that are there, with their headers. Those that an operation was about to make, and nothing was
/// written through, are not.
fn headers(folder: &VmFolder, disk: &str, journal: Option<&Journal>) -> BTreeMap<LayerId, Option<Header>> {
    let overlays = match journal.map(|journal| &journal.phase) {
        Some(Phase::Prepare(plan)) => &plan.overlays[..],
        _ => &[],
    };
    let is_draft = |layer: &LayerId| {
        overlays.iter().any(|overlay| overlay.disk == *disk && overlay.layer == *layer)
            && !qcow2::has_data(&folder.layer(disk, layer)).unwrap_or(true)
    };
    let header = |layer: &LayerId| qcow2::read_header(&folder.layer(disk, layer)).ok().flatten();
    let layers = frozen::files(folder, disk).into_iter().filter(|layer| !is_draft(layer));
    layers.map(|layer| (layer.clone(), header(&layer))).collect()
}

/// The memory that a clone was to go on from fits disks that nobody has written to.
fn forget_first_start(folder: &VmFolder, record: &mut VmRecord) -> Result<()> {
    for disk in &record.disks {
        if record.first_start.is_some() && qcow2::has_data(&folder.layer(&disk.name, &disk.active))? {
            record.first_start = None;
        }
    }
    Ok(())
}

/// What the new record says that the old one did not.
fn changes(facts: &Facts, record: &VmRecord) -> Vec<String> {
    let mut changes = Vec::new();
    let Some(old) = &facts.old else {
        changes.push("vm.json can't be read: it is made anew".to_owned());
        let newest = facts.snapshots.sound.last();
        changes.extend(newest.map(|newest| format!("hardware: that of snapshot '{}'", newest.name)));
        changes.extend(record.disks.iter().map(|disk| {
            format!("disk '{}': {} layers, writes layer {}", disk.name, disk.layers.len(), disk.active)
        }));
        return changes;
    };
    for disk in &record.disks {
        let Some(before) = old.disk(&disk.name) else { continue };
        if disk.active != before.active {
            changes
                .push(format!("disk '{}': writes layer {}, not {}", disk.name, disk.active, before.active));
        }
        let has = |of: &DiskRecord, id: &LayerId| of.layers.iter().any(|layer| layer.id == *id);
        let new = disk.layers.iter().filter(|layer| !has(before, &layer.id));
        changes.extend(new.map(|layer| format!("disk '{}': has layer {}", disk.name, layer.id)));
        let gone = before.layers.iter().filter(|layer| !has(disk, &layer.id));
        changes.extend(gone.map(|layer| format!("disk '{}': has no layer {} any more", disk.name, layer.id)));
    }
    if record.current != old.current {
        let name =
            record.current.as_ref().and_then(|id| facts.snapshots.by_id(id)).map(|one| one.name.to_string());
        changes
            .push(format!("descends from {}", name.map_or("no snapshot".into(), |name| format!("'{name}'"))));
    }
    if record.first_start != old.first_start {
        changes.push("its next start boots: its disks were written".into());
    }
    changes
}

/// Takes all frozen layers as they are now. Returns what that changes.
fn mark(folder: &VmFolder, record: &mut VmRecord, dry_run: bool) -> Result<Vec<String>> {
    let mut changes = Vec::new();
    for disk in &mut record.disks {
        for layer in disk.layers.iter_mut().filter(|layer| layer.id != disk.active) {
            let path = folder.layer(&disk.name, &layer.id);
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if !dry_run {
                folder.files().sync_file(&path)?;
            }
            let now = base::file_mark(&metadata);
            if let Some(change) = layer.frozen.and_then(|then| then.change_to(&now)) {
                changes.push(format!(
                    "disk '{}': layer {} is taken as it is, though {change}",
                    disk.name, layer.id
                ));
            }
            layer.frozen = Some(now);
        }
    }
    Ok(changes)
}
