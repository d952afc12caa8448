//! Tidies the active layers of a VM whose QEMU ended by itself or was killed.
//!
//! A killed QEMU leaves clusters that are allocated and not used. They are freed before the layer is frozen or written
//! on: in a frozen one they would stay for good. A QEMU that was ended by us closed its images, and costs nothing here.

use crate::error::Result;
use crate::layers::image_tool::free_leaks;
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::vm::process::Process;

/// Frees unused clusters where the VM's last QEMU, which must not run any more, did not end by our hand.
///
/// # Errors
/// `Damaged` where a layer is.
pub(crate) fn tidy(folder: &VmFolder, record: &VmRecord) -> Result<()> {
    if !Process::left_its_note(folder) {
        return Ok(());
    }
    for disk in &record.disks {
        free_leaks(&folder.layer(&disk.name, &disk.active))?;
    }
    Process::forget(folder)
}
