//! Looks for damage in the store, in records and in layers, and says which snapshots it touches.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;
use vmrewind_store::{CheckOptions, ImageId, Progress};

use crate::context::{Context, Work};
use crate::engine::{Operation, Seen};
use crate::error::{ErrorKind, Result};
use crate::ids::{LayerId, VmName};
use crate::images::{image_id, store_error};
use crate::layers::frozen;
use crate::record::snapshot::Manifest;
use crate::record::snapshots::{DamagedManifest, Snapshots};
use crate::record::vm::DiskRecord;
use crate::root::VmFolder;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckView {
    /// Whether no damage was found.
    pub ok: bool,
    /// Whether every byte was read.
    pub read_data: bool,
    /// Memory images that were looked at.
    pub images: u64,
    /// Packs that were looked at.
    pub packs: u64,
    /// Objects in them.
    pub objects: u64,
    /// Bytes that were read and verified.
    pub read_bytes: u64,
    /// What is damaged.
    pub damage: Vec<DamageView>,
    /// All snapshots that damage touches, `VM@NAME`.
    pub damaged_snapshots: Vec<String>,
    /// Snapshots whose memory an older vmrewind wrote: it can't be read by this one.
    pub older_snapshots: Vec<String>,
}

/// One thing that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamageView {
    /// What, where, and what is wrong with it.
    pub what: String,
    /// How many objects of the store it is.
    pub objects: u64,
    /// The snapshots that can't be read whole for it, `VM@NAME`.
    pub snapshots: Vec<String>,
}

/// For each memory image the snapshots that name it, `VM@NAME`.
pub(super) type Names = BTreeMap<ImageId, Vec<String>>;

impl Operation {
    /// Checks the store's structure, and with `read_data` every byte of it; records, and what layers look like from outside.
    /// Damage is a result, not an error.
    ///
    /// # Errors
    /// `Failed` where the storage can't be read, `Interrupted`.
    pub fn check(&self, read_data: bool) -> Result<CheckView> {
        let ctx = &self.ctx;
        let checked = self.store.check(CheckOptions { read_data }, &mut |progress| told(ctx, progress));
        self.ctx.work_ended();
        let report = checked.map_err(|error| store_error("cannot check the store", error))?;
        let (names, mut damage) = self.snapshots_by_image()?;
        let named = |images: &[ImageId]| -> Vec<String> {
            images.iter().filter_map(|image| names.get(image)).flatten().cloned().collect()
        };
        damage.extend(report.damage.iter().map(|damage| DamageView {
            what: damage.error.to_string(),
            objects: damage.objects,
            snapshots: named(&damage.images),
        }));
        damage.extend(self.missing_images(&names)?);
        let mut damaged_snapshots: Vec<String> =
            damage.iter().flat_map(|damage| damage.snapshots.iter().cloned()).collect();
        damaged_snapshots.sort_unstable();
        damaged_snapshots.dedup();
        Ok(CheckView {
            ok: damage.is_empty(),
            read_data,
            images: report.images,
            packs: report.packs,
            objects: report.objects,
            read_bytes: report.read_bytes,
            damage,
            damaged_snapshots,
            older_snapshots: named(&report.older),
        })
    }

    /// Images that a snapshot names and the store does not have, which was asked for them after `names` were read.
    pub(super) fn missing_images(&self, names: &Names) -> Result<Vec<DamageView>> {
        let present =
            self.store.images().map_err(|error| store_error("cannot list the store's images", error))?;
        let mut missing: Names = names.clone();
        missing.retain(|image, _| !present.contains(image));
        if !missing.is_empty() {
            // Of a snapshot that was deleted meanwhile the image is gone, too.
            let names_now = self.named_images()?;
            missing.retain(|image, _| names_now.contains_key(image));
        }
        let view = |(image, snapshots)| {
            let what = format!("memory image {image} is missing");
            DamageView { what, objects: 0, snapshots }
        };
        Ok(missing.into_iter().map(view).collect())
    }

    /// For each memory image the snapshots that name it, as far as VMs can be read without waiting for anybody.
    pub(super) fn named_images(&self) -> Result<Names> {
        let mut names = Names::new();
        for vm in self.root.vm_names()? {
            let snapshots = Snapshots::load(&self.root.vm(&vm)).unwrap_or_default();
            add_names(&mut names, &vm, snapshots.sound)?;
        }
        Ok(names)
    }

    /// For each memory image the snapshots that name it; and what of VMs and their snapshots can't be read, as damage.
    fn snapshots_by_image(&self) -> Result<(Names, Vec<DamageView>)> {
        let mut names = Names::new();
        let mut damage = Vec::new();
        for vm in self.root.vm_names()? {
            let snapshots = match self.look(&vm) {
                Ok(seen) => {
                    damage.extend(damaged_layers(&seen));
                    seen.snapshots
                }
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Refused) => {
                    damage.push(DamageView { what: error.in_one_line(), objects: 0, snapshots: Vec::new() });
                    // What is damaged of a VM hides none of its snapshots.
                    Snapshots::load(&self.root.vm(&vm)).unwrap_or_default()
                }
                Err(error) => return Err(error),
            };
            add_names(&mut names, &vm, snapshots.sound)?;
            for DamagedManifest { id, why, .. } in snapshots.damaged {
                // Without its name the snapshot is known by its id, as its file and its image are.
                let what = format!("the manifest of snapshot {id} of VM '{vm}' can't be read: {why}");
                damage.push(DamageView { what, objects: 0, snapshots: vec![format!("{vm}@{id}")] });
            }
        }
        Ok((names, damage))
    }
}

/// What is wrong with the layers of a VM, and which of its snapshots read them.
fn damaged_layers(seen: &Seen) -> Vec<DamageView> {
    let (folder, record) = (&seen.folder, &seen.record);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if let Err(error) = frozen::check_not_older(folder, record, &seen.snapshots) {
        found.entry(error.in_one_line()).or_default();
    }
    // Each layer once: chains share most of theirs.
    let mut flaws: HashMap<PathBuf, Option<String>> = HashMap::new();
    let mut flaw = |folder: &VmFolder, disk: &DiskRecord, layer: &LayerId| {
        let look = || frozen::check_layer(folder, disk, layer).err().map(|error| error.in_one_line());
        flaws.entry(folder.layer(&disk.name, layer)).or_insert_with(look).clone()
    };
    for disk in &record.disks {
        // Those too that only the present state reads, or nobody any more.
        for layer in &disk.layers {
            if let Some(what) = flaw(folder, disk, &layer.id) {
                found.entry(what).or_default();
            }
        }
        for manifest in &seen.snapshots.sound {
            let Some(then) = manifest.disks.iter().find(|then| then.name == disk.name) else { continue };
            let name = format!("{}@{}", record.name, manifest.name);
            let chain = frozen::each(folder, disk, &then.layer, |folder, disk, layer| {
                if let Some(what) = flaw(folder, disk, layer) {
                    found.entry(what).or_default().push(name.clone());
                }
                Ok(())
            });
            if let Err(error) = chain {
                found.entry(error.in_one_line()).or_default().push(name);
            }
        }
    }
    found.into_iter().map(|(what, snapshots)| DamageView { what, objects: 0, snapshots }).collect()
}

fn add_names(names: &mut Names, vm: &VmName, manifests: Vec<Manifest>) -> Result<()> {
    for Manifest { name, memory, .. } in manifests {
        if let Some(memory) = memory {
            names.entry(image_id(&memory.image)?).or_default().push(format!("{vm}@{name}"));
        }
    }
    Ok(())
}

/// Tells of progress, and asks whether to go on.
fn told(ctx: &Context, progress: Progress) -> ControlFlow<()> {
    // Small numbers count packs and images; a bar of bytes would say nothing of them.
    if progress.what != "reading data" {
        return ctx.go_on();
    }
    ctx.progress(Work::Store(progress.what), progress.done, progress.total)
}
