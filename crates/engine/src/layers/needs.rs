//! Who reads through a layer: the one rule by which layers may go.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{LayerId, SnapshotId};
use crate::layers::clones::CloneOf;
use crate::record::snapshots::Snapshots;
use crate::record::vm::VmRecord;

/// One who reads through a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reader {
    /// The VM's present state.
    Present,
    /// A snapshot, by name.
    Snapshot(String),
    /// A clone, by the name of its VM.
    Clone(String),
    /// A snapshot whose manifest can't be read, by id: it may read any layer.
    Damaged(String),
}

impl std::fmt::Display for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Present => f.write_str("the VM's present state"),
            Self::Snapshot(name) => write!(f, "snapshot '{name}'"),
            Self::Clone(name) => write!(f, "VM '{name}', a clone"),
            Self::Damaged(id) => write!(f, "snapshot '{id}', whose manifest is damaged"),
        }
    }
}

/// Every layer of the VM with those who read through it, as if the snapshots `without` were gone.
pub(crate) fn readers(
    record: &VmRecord,
    snapshots: &Snapshots,
    clones: &[CloneOf],
    without: &BTreeSet<SnapshotId>,
) -> BTreeMap<(String, LayerId), BTreeSet<Reader>> {
    let mut readers: BTreeMap<(String, LayerId), BTreeSet<Reader>> = BTreeMap::new();
    for disk in &record.disks {
        for layer in &disk.layers {
            readers.entry((disk.name.clone(), layer.id.clone())).or_default();
        }
        let mut add = |top: &LayerId, reader: &Reader| {
            for layer in disk.chain(top).unwrap_or_default() {
                readers.entry((disk.name.clone(), layer)).or_default().insert(reader.clone());
            }
        };
        add(&disk.active, &Reader::Present);
        for snapshot in snapshots.sound.iter().filter(|snapshot| !without.contains(&snapshot.id)) {
            if let Some(frozen) = snapshot.disks.iter().find(|frozen| frozen.name == disk.name) {
                add(&frozen.layer, &Reader::Snapshot(snapshot.name.to_string()));
            }
        }
        for clone in clones {
            for (_, layer) in clone.layers.iter().filter(|(name, _)| *name == disk.name) {
                add(layer, &Reader::Clone(clone.name.clone()));
            }
        }
    }
    for damaged in snapshots.damaged.iter().filter(|damaged| !without.contains(&damaged.id)) {
        for readers in readers.values_mut() {
            readers.insert(Reader::Damaged(damaged.id.to_string()));
        }
    }
    readers
}
