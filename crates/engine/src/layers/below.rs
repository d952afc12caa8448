//! The files below a VM's own layers: the user's image, or another VM's layers down to its.

use crate::ids::LayerId;
use crate::record::vm::{BaseRecord, DiskRecord, VmRecord};
use crate::root::VmFolder;

/// Clones of clones beyond which a chain is not followed: a damaged record could lead in a ring.
const DEEPEST: usize = 64;

/// The VMs below `base`, of a disk of the VM in `folder`: for each its folder, the disk, and the layer on which the one above
/// lies. Where a record can't be read the list ends early.
pub(crate) fn parents(folder: &VmFolder, base: &BaseRecord) -> Vec<(VmFolder, DiskRecord, LayerId)> {
    let mut parents = Vec::new();
    let mut next = base.layer.clone();
    while let Some(layer) = next.take_if(|_| parents.len() < DEEPEST) {
        let parent = folder.neighbour(&layer.vm);
        let record = VmRecord::read(&parent).ok().filter(|record| record.id == layer.vm_id);
        let disk = record.and_then(|record| record.disk(&layer.disk).cloned());
        let Some(disk) = disk.filter(|disk| disk.chain(&layer.layer).is_some()) else { break };
        next.clone_from(&disk.base.layer);
        parents.push((parent, disk, layer.layer));
    }
    parents
}

/// The files from `base`, of a disk of the VM in `folder`, down to the user's image. Where another VM's record can't be
/// read the list ends early.
pub(crate) fn below(folder: &VmFolder, base: &BaseRecord) -> Vec<String> {
    let mut files = Vec::new();
    let mut last = base.clone();
    for (parent, disk, layer) in parents(folder, base) {
        let chain = disk.chain(&layer).unwrap_or_default();
        files.extend(chain.iter().map(|id| parent.layer(&disk.name, id).display().to_string()));
        last = disk.base;
    }
    files.push(last.location);
    files
}

/// How many files of this host lie below a VM's own layers.
pub(crate) fn local_files_below(folder: &VmFolder, base: &BaseRecord) -> usize {
    below(folder, base).iter().filter(|file| file.starts_with('/')).count()
}
