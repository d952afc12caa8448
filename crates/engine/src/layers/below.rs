//! The files below a VM's own layers: the user's image, or another VM's layers down to its.

use crate::record::vm::{BaseRecord, VmRecord};
use crate::root::VmFolder;

/// Clones of clones beyond which a chain is not followed: a damaged record could lead in a ring.
const DEEPEST: usize = 64;

/// The files from `base`, of a disk of the VM in `folder`, down to the user's image. Where another VM's record can't be
/// read the list ends early.
pub(crate) fn below(folder: &VmFolder, base: &BaseRecord) -> Vec<String> {
    let mut files = Vec::new();
    let mut base = base.clone();
    for _ in 0..DEEPEST {
        let Some(layer) = &base.layer else {
            files.push(base.location);
            break;
        };
        let parent = folder.neighbour(&layer.vm);
        let record = VmRecord::read(&parent).ok().filter(|record| record.id == layer.vm_id);
        let chain = record.as_ref().and_then(|record| {
            let disk = record.disk(&layer.disk)?;
            Some((disk.chain(&layer.layer)?, disk.base.clone()))
        });
        let Some((chain, next)) = chain else {
            files.push(base.location);
            break;
        };
        files.extend(chain.iter().map(|id| parent.layer(&layer.disk, id).display().to_string()));
        base = next;
    }
    files
}

/// How many files of this host lie below a VM's own layers.
pub(crate) fn local_files_below(folder: &VmFolder, base: &BaseRecord) -> usize {
    below(folder, base).iter().filter(|file| file.starts_with('/')).count()
}
