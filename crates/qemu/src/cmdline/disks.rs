//! The disks of a command line: every block device the VM can write, however it is written down.
//!
//! `-drive`, `-hda` and its like are read by [`super::drives`], `-blockdev` graphs by [`super::blockdev`].
//! Here they come together and get names that are unique and fit for a folder.

use std::collections::BTreeSet;

use super::base::{BaseSpec, DiskOptions};
use super::{CmdlineError, CommandLine, blockdev, drives};

/// Longest name of a disk; folders are named after it.
const MAX_NAME: usize = 64;

/// A block device of the VM with an image in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Unique in the command line, fit for a folder: the drive's id, else its node name, else as `hda`, `virtio0`.
    pub name: String,
    /// The image.
    pub base: BaseSpec,
    /// How it is opened.
    pub options: DiskOptions,
    /// Whether the guest can't write it.
    pub read_only: bool,
    /// How QMP commands call it.
    pub handle: BlockHandle,
    /// Where it stands in the command line.
    pub at: DiskAt,
}

/// How a disk is called in QMP; both kinds can be given as `node` to `blockdev-snapshot` for the first delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockHandle {
    /// `device` in `query-block`: always means the layer that is active.
    Device(String),
    /// A node name: means that one layer, also after another was put on top.
    Node(String),
}

/// Where a disk stands in a command line and its copies; only for [`CommandLine::set_disk_file`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskAt(pub(super) Place);

/// What [`DiskAt`] hides. Options are told by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A `-drive`.
    Drive(usize),
    /// `-hda` and its like, or an image without an option.
    Shortcut(usize),
    /// A node of a `-blockdev`, by the keys that lead to it.
    Node { option: usize, path: Vec<String> },
}

impl CommandLine {
    /// The disks the VM can write, in the order of the command line (`-drive` and its like, then `-blockdev`).
    ///
    /// Drives without a medium are no disks; neither are block nodes no device uses.
    ///
    /// # Errors
    /// Any [`CmdlineError`] about JSON, values or the block graph.
    pub fn disks(&self) -> Result<Vec<DiskSpec>, CmdlineError> {
        Ok(self.block_devices()?.into_iter().filter(|disk| !disk.read_only).collect())
    }

    /// The media the VM can only read: CD images and drives that are set read-only.
    ///
    /// # Errors
    /// As [`CommandLine::disks`].
    pub fn read_only_media(&self) -> Result<Vec<DiskSpec>, CmdlineError> {
        Ok(self.block_devices()?.into_iter().filter(|disk| disk.read_only).collect())
    }

    fn block_devices(&self) -> Result<Vec<DiskSpec>, CmdlineError> {
        let drives = drives::drives(self)?;
        let nodes = blockdev::disks(self, &drives)?;
        let mut disks: Vec<_> = drives.into_iter().filter_map(|drive| drive.disk).chain(nodes).collect();
        name_apart(&mut disks);
        Ok(disks)
    }
}

/// Makes the names fit for folders and different from each other.
fn name_apart(disks: &mut [DiskSpec]) {
    let mut taken = BTreeSet::new();
    for disk in disks {
        let safe = folder_name(&disk.name);
        let mut name = safe.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{safe}-{number}");
            number += 1;
        }
        disk.name = name;
    }
}

fn folder_name(name: &str) -> String {
    let safe = |char: char| if char.is_ascii_alphanumeric() || "._-".contains(char) { char } else { '_' };
    let mut out: String = name.chars().take(MAX_NAME).map(safe).collect();
    if out.is_empty() || out.starts_with('.') {
        out.insert(0, '_');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::folder_name;

    /// Guards against a disk's name leaving its folder or hiding in it.
    #[test]
    fn names_are_fit_for_folders() {
        let cases = [
            ("disk0", "disk0"),
            ("../x", "_.._x"),
            ("a/b c", "a_b_c"),
            ("", "_"),
            ("#block1", "_block1"),
            ("é", "_"),
        ];
        for (name, wanted) in cases {
            assert_eq!(folder_name(name), wanted);
        }
        assert!(folder_name(&"x".repeat(300)).len() <= 65);
    }
}
