//! Tidies the active layers of a VM whose QEMU ended by itself or was killed.
//!
//! A killed QEMU leaves clusters that are allocated and not used. They are freed before the layer is frozen or written
//! on: in a frozen one they would stay for good. A QEMU that was ended by us closed its images, and costs nothing here.
//! A layer that can't be tidied is used as it is: it is no worse for that, and a restore may be what helps.

use crate::error::Result;
use crate::host::Host;
use crate::layers::image_tool::free_leaks;
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::vm::process::Process;

/// Frees unused clusters where the VM's last QEMU, which must not run any more, did not end by our hand.
pub(crate) fn tidy(host: &Host, folder: &VmFolder, record: &VmRecord) -> Result<()> {
    if !Process::left_its_note(folder) {
        return Ok(());
    }
    for disk in &record.disks {
        if let Err(error) = free_leaks(&folder.layer(&disk.name, &disk.active)) {
            host.progress.note(&format!("disk '{}' was not tidied: {error}", disk.name));
        }
    }
    Process::forget(folder)
}
