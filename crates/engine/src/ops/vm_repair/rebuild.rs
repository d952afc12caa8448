//! What a VM's record must say, worked out from its manifests and the headers of its layers.
//!
//! What an older record says is believed where nothing speaks against it: id, hardware, bases. Where the layers are, which lies
//! on which, and which one the VM writes, is told by those who can't be older: manifests, then the record, then headers.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, VmId, VmName};
use crate::layers::qcow2::Header;
use crate::record::RECORD_VERSION;
use crate::record::snapshot::{FrozenDisk, Manifest};
use crate::record::snapshots::Snapshots;
use crate::record::vm::{BaseRecord, CloneOrigin, DiskRecord, LayerRecord, VmRecord};

/// What is there.
pub(super) struct Facts {
    /// The VM: its folder's name.
    pub(super) name: VmName,
    /// A record that can be read, however old.
    pub(super) old: Option<VmRecord>,
    /// Whether that fits manifests and layers.
    pub(super) old_fits: bool,
    /// Its manifests.
    pub(super) snapshots: Snapshots,
    /// By disk, the layers whose files are there; no header where it can't be read.
    pub(super) files: BTreeMap<String, BTreeMap<LayerId, Option<Header>>>,
    /// The id that other VMs' records have for it.
    pub(super) known_id: Option<VmId>,
    /// The snapshot that it was cloned from, as far as the other VM tells.
    pub(super) origin: Option<CloneOrigin>,
    /// Layers that the user says are to be written.
    pub(super) chosen: Vec<LayerId>,
}

/// The record, without marks of frozen layers but those of the old one.
pub(super) fn rebuild(facts: &Facts) -> Result<VmRecord> {
    let newest = facts.snapshots.sound.last();
    let old = facts.old.as_ref();
    let nothing = || {
        Error::damaged(format!(
            "the record of VM '{}' can't be made anew: it has no snapshot that tells its hardware",
            facts.name
        ))
        .with_hint(Hint::PutRecordBack)
    };
    let hardware = old.map(|old| &old.hardware).or(newest.map(|newest| &newest.hardware));
    let id = old.map(|old| &old.id).or(newest.and_then(|newest| newest.vm_id.as_ref()));
    let mut record = VmRecord {
        version: RECORD_VERSION,
        id: id.or(facts.known_id.as_ref()).ok_or_else(nothing)?.clone(),
        name: facts.name.clone(),
        created: old
            .map(|old| old.created)
            .or(facts.snapshots.sound.first().map(|first| first.created))
            .ok_or_else(nothing)?,
        hardware: hardware.ok_or_else(nothing)?.clone(),
        disks: Vec::new(),
        media: old.map(|old| old.media.clone()).unwrap_or_default(),
        current: None,
        origin: old.and_then(|old| old.origin.clone()).or(facts.origin.clone()),
        first_start: old.and_then(|old| old.first_start.clone()),
    };
    let names = old.map(|old| old.disks.iter().map(|disk| disk.name.clone()).collect());
    let names: Vec<String> = names
        .or(newest.map(|newest| newest.disks.iter().map(|disk| disk.name.clone()).collect()))
        .unwrap_or_default();
    record.disks = names.iter().map(|name| disk(facts, name)).collect::<Result<_>>()?;
    record.current = match old {
        Some(old) if facts.old_fits => old.current.clone(),
        _ => nearest(&facts.snapshots, &record).map(|manifest| manifest.id.clone()),
    };
    Ok(record)
}

/// The snapshot that the present state descends from directly.
fn nearest<'a>(snapshots: &'a Snapshots, record: &VmRecord) -> Option<&'a Manifest> {
    let disk = record.disks.first()?;
    let names = |manifest: &&Manifest, layer: &LayerId| {
        manifest.disks.iter().any(|frozen| frozen.name == disk.name && frozen.layer == *layer)
    };
    let chain = disk.chain(&disk.active)?;
    chain.iter().find_map(|layer| snapshots.sound.iter().rev().find(|manifest| names(manifest, layer)))
}

fn disk(facts: &Facts, name: &str) -> Result<DiskRecord> {
    let manifests = &facts.snapshots.sound;
    let frozen: Vec<&FrozenDisk> = manifests
        .iter()
        .rev()
        .flat_map(|manifest| &manifest.disks)
        .filter(|disk| disk.name == name)
        .collect();
    let old = facts.old.as_ref().and_then(|old| old.disk(name));
    let base: Option<&BaseRecord> =
        old.map(|old| &old.base).or_else(|| frozen.iter().find_map(|frozen| frozen.base.as_ref()));
    let base = base.ok_or_else(|| {
        Error::damaged(format!("nothing tells the base image of disk '{name}'"))
            .with_hint(Hint::PutRecordBack)
    })?;
    let none = BTreeMap::new();
    let files = facts.files.get(name).unwrap_or(&none);
    let parents = parents(files, &frozen, old);
    let active = match old {
        Some(old) if facts.old_fits => old.active.clone(),
        _ => active(facts, name, &parents, &frozen)?,
    };
    let marked = |id: &LayerId| old?.layers.iter().find(|layer| layer.id == *id)?.frozen;
    let layers = in_order(&parents).into_iter().map(|(id, parent)| LayerRecord {
        frozen: marked(&id).filter(|_| id != active),
        id,
        parent,
    });
    let disk = DiskRecord { name: name.to_owned(), base: base.clone(), layers: layers.collect(), active };
    if disk.chain(&disk.active).is_none() {
        return Err(Error::damaged(format!(
            "a layer is missing, or can't be read, below layer {} of disk '{name}'",
            disk.active
        ))
        .with_hint(Hint::PutFileBack));
    }
    Ok(disk)
}

/// What each layer lies on; nothing is the base. A layer of which nobody tells is left out.
fn parents(
    files: &BTreeMap<LayerId, Option<Header>>,
    frozen: &[&FrozenDisk],
    old: Option<&DiskRecord>,
) -> BTreeMap<LayerId, Option<LayerId>> {
    let mut parents = BTreeMap::new();
    for (id, header) in files {
        // The name of a base is no layer's, so a delta on it has no parent.
        if let Some(header) = header {
            parents.insert(id.clone(), header.backing_file.as_deref().and_then(layer_of));
        }
    }
    for layer in old.into_iter().flat_map(|old| &old.layers).filter(|layer| files.contains_key(&layer.id)) {
        parents.insert(layer.id.clone(), layer.parent.clone());
    }
    for frozen in frozen {
        let below: Vec<Option<LayerId>> = frozen.below.iter().map(|file| layer_of(file)).collect();
        let mut layer = frozen.layer.clone();
        for parent in below {
            parents.insert(layer.clone(), parent.clone());
            let Some(parent) = parent else { break };
            layer = parent;
        }
    }
    parents
}

/// The layer of such a file name: `ID.qcow2`.
fn layer_of(file: &str) -> Option<LayerId> {
    file.strip_suffix(".qcow2")?.parse().ok()
}

/// The layer that the VM wrote last: one whose file is there, on which none lies, and which no snapshot names.
fn active(
    facts: &Facts,
    disk: &str,
    parents: &BTreeMap<LayerId, Option<LayerId>>,
    frozen: &[&FrozenDisk],
) -> Result<LayerId> {
    let below: BTreeSet<&LayerId> =
        parents.values().flatten().chain(frozen.iter().map(|frozen| &frozen.layer)).collect();
    let is_readable =
        |id: &LayerId| facts.files.get(disk).and_then(|files| files.get(id)).is_some_and(Option::is_some);
    let candidates: Vec<&LayerId> =
        parents.keys().filter(|id| !below.contains(id) && is_readable(id)).collect();
    if let Some(chosen) = candidates.iter().find(|id| facts.chosen.contains(id)) {
        return Ok((*chosen).clone());
    }
    match candidates[..] {
        [only] => Ok(only.clone()),
        [] => Err(Error::damaged(format!("the layer that disk '{disk}' was written to last is not there"))
            .with_hint(Hint::PutFileBack)),
        _ => {
            let layers = candidates.iter().map(ToString::to_string).collect();
            Err(Error::damaged(format!(
                "any of several layers can be the one that disk '{disk}' was written to last"
            ))
            .with_hint(Hint::ChooseLayer { vm: facts.name.to_string(), layers }))
        }
    }
}

/// Parents before children. Those in a ring are left out.
fn in_order(parents: &BTreeMap<LayerId, Option<LayerId>>) -> Vec<(LayerId, Option<LayerId>)> {
    let mut ordered: Vec<(LayerId, Option<LayerId>)> = Vec::new();
    let mut placed: BTreeSet<LayerId> = BTreeSet::new();
    loop {
        let is_next = |(id, parent): &(&LayerId, &Option<LayerId>)| {
            !placed.contains(*id) && parent.as_ref().is_none_or(|parent| placed.contains(parent))
        };
        let next: Vec<_> =
            parents.iter().filter(is_next).map(|(id, parent)| (id.clone(), parent.clone())).collect();
        if next.is_empty() {
            return ordered;
        }
        placed.extend(next.iter().map(|(id, _)| id.clone()));
        ordered.extend(next);
    }
}
