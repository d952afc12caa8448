//! Disks for guests: made on the host, and looked into after the guest is done with them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::arch::HOST;
use crate::command::{command, run, run_whatever_status};
use crate::error::{Error, Result};

/// Makes a raw disk with an empty ext4 file system.
pub fn ext4_raw(path: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    file.set_len(size_bytes).map_err(Error::io("resize", path))?;
    run("mkfs.ext4", ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &text(path)?]).map(drop)
}

/// Makes a qcow2 disk with an empty ext4 file system.
pub fn ext4_qcow2(path: &Path, size_bytes: u64) -> Result<()> {
    let raw = tempfile::NamedTempFile::new().map_err(Error::io("create a file beside", path))?;
    ext4_raw(raw.path(), size_bytes)?;
    run("qemu-img", ["convert", "-q", "-f", "raw", "-O", "qcow2", &text(raw.path())?, &text(path)?]).map(drop)
}

/// Makes an empty qcow2 disk.
pub fn blank_qcow2(path: &Path, size_bytes: u64) -> Result<()> {
    run("qemu-img", ["create", "-q", "-f", "qcow2", &text(path)?, &size_bytes.to_string()]).map(drop)
}

/// A loop device on a file, for as long as this lives.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// The device, such as `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device that stays is seen in `losetup -l`; a test must not fail while it unwinds.
        let _ = command("losetup").arg("-d").arg(&self.path).status();
    }
}

/// Attaches `path` to a free loop device; needs root.
pub fn loop_device(path: &Path) -> Result<LoopDevice> {
    let output = run("losetup", ["--find", "--show", &text(path)?])?;
    Ok(LoopDevice { path: PathBuf::from(String::from_utf8_lossy(&output).trim()) })
}

/// The UEFI firmware's code, read-only for all VMs.
pub fn uefi_code() -> Result<PathBuf> {
    firmware("CODE")
}

/// Makes a VM's own copy of empty UEFI variables.
pub fn uefi_vars(path: &Path) -> Result<()> {
    fs::copy(firmware("VARS")?, path).map(drop).map_err(Error::io("write", path))
}

fn firmware(part: &str) -> Result<PathBuf> {
    let (folder, name) = HOST.firmware;
    let folder = Path::new(folder);
    let candidates = ["_4M", ""].map(|size| folder.join(format!("{name}_{part}{size}.fd")));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing { what: format!("UEFI firmware ({part})"), searched: folder.into() })
}

/// What is on a disk that a guest has used.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Whether the file system has no error once its journal is replayed, as a boot would.
    pub clean: bool,
    /// What fsck said, for the report of a failed test.
    pub report: String,
    /// The guest's counter, where there is one.
    pub counter: Option<u64>,
}

/// Looks into a disk (with all its backing files) by way of a copy: nothing is written to it.
///
/// The disk must not be in use by a running guest.
pub fn inspect(path: &Path, format: &str) -> Result<Inspection> {
    let copy = tempfile::NamedTempFile::new().map_err(Error::io("create a copy of", path))?;
    let copied = text(copy.path())?;
    run("qemu-img", ["convert", "-q", "-f", format, "-O", "raw", &text(path)?, &copied])?;
    let replayed =
        run_whatever_status("e2fsck", command("e2fsck").args(["-E", "journal_only", "-p", &copied]))?;
    let checked = run_whatever_status("e2fsck", command("e2fsck").args(["-f", "-n", &copied]))?;
    let said = [replayed.stdout, replayed.stderr, checked.stdout, checked.stderr].concat();
    let counter = run("debugfs", ["-R", "cat /counter", &copied])?;
    Ok(Inspection {
        clean: checked.status.success(),
        report: String::from_utf8_lossy(&said).into_owned(),
        counter: String::from_utf8_lossy(&counter).trim().parse().ok(),
    })
}

fn text(path: &Path) -> Result<String> {
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidFilename, "not UTF-8");
    path.to_str().map(String::from).ok_or_else(|| Error::io("use", path)(invalid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_BYTES: u64 = 16 << 20;

    /// Guards the judge: a broken file system must not be called clean, nor a fresh one broken.
    #[test]
    fn inspection_tells_clean_from_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        ext4_raw(&path, SIZE_BYTES).unwrap();
        let fresh = inspect(&path, "raw").unwrap();
        assert!(fresh.clean, "{}", fresh.report);
        assert_eq!(fresh.counter, None);

        let mut bytes = fs::read(&path).unwrap();
        // The block bitmaps and inode tables lie in the first blocks after the superblock.
        bytes[16 << 10..64 << 10].fill(0xff);
        fs::write(&path, bytes).unwrap();
        assert!(!inspect(&path, "raw").unwrap().clean);
    }

    /// Guards both formats having the same content.
    #[test]
    fn qcow2_holds_a_file_system_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        ext4_qcow2(&path, SIZE_BYTES).unwrap();
        assert!(inspect(&path, "qcow2").unwrap().clean);
        assert_eq!(&fs::read(&path).unwrap()[..4], b"QFI\xfb");
    }
}
