//! Tidies the active layers of a VM whose QEMU ended by itself or was killed.
//!
//! A killed QEMU leaves clusters that are allocated and not used. They are freed before the layer is frozen or written
//! on: in a frozen one they would stay for good. A QEMU that was ended by us closed its images, and costs nothing here.
//! A layer that can't be tidied is used as it is: it is no worse for that, and a restore may be what helps.

use crate::context::{Context, Note};
use crate::error::Result;
use crate::layers::image_tool::free_leaks;
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::vm::process::Process;

/// Frees unused clusters where the VM's last QEMU, which must not run any more, did not end by our hand.
pub(crate) fn tidy(ctx: &Context, folder: &VmFolder, record: &VmRecord) -> Result<()> {
    if !Process::left_its_note(folder) {
        return Ok(());
    }
    for disk in &record.disks {
        if let Err(error) = free_leaks(&folder.layer(&disk.name, &disk.active)) {
            ctx.note(Note::NotTidied { disk: disk.name.clone(), error: error.to_string() });
        }
    }
    Process::forget(folder)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use crate::layers::image_tool::{free_leaks, qemu_img};

    /// What a QEMU left that was killed in its first allocation: a cluster that is counted, not used, and beyond the end
    /// of the file. It must not turn up as a leak once the layer has grown.
    #[test]
    fn a_cluster_counted_beyond_the_end_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let name = path.to_str().unwrap();
        qemu_img("t", &["create", "-q", "-f", "qcow2", name, "64M"]).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        // Cluster 4 is the first that is free in a new image; its count stands in the refcount block in cluster 2.
        file.write_all_at(&1_u16.to_be_bytes(), 0x20000 + 2 * 4).unwrap();
        let length = file.metadata().unwrap().len();
        assert!(length <= 0x40000, "cluster 4 must lie beyond the end: {length}");
        free_leaks(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
        let run = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output().unwrap();
        assert!(run("qemu-io", &["-c", "write 0 1M", name]).status.success());
        let checked = run("qemu-img", &["check", "-f", "qcow2", name]);
        assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}
