//! Writes the file of an empty delta: the smallest qcow2 that names a backing file.
//!
//! Starting `qemu-img create` takes longer than all else that a restore does before it starts QEMU. The format is QEMU's
//! docs/interop/qcow2.rst, version 3, clusters of 64 KiB:
//!
//! ```text
//! cluster 0          header, backing format, end of extensions, backing file's name
//! cluster 1          refcount table: one entry
//! cluster 2          refcount block: 1 for each cluster of this file
//! cluster 3 and on   L1 table: zeros, nothing is allocated
//! ```

use std::path::Path;

use crate::error::{Error, Result};
use crate::root::file::{Files, io_error};

const CLUSTER: u64 = 64 << 10;
const CLUSTER_BITS: u32 = 16;
/// What one entry of the L1 table covers: a cluster of L2 entries, 8 bytes each.
const L1_COVERS: u64 = CLUSTER / 8 * CLUSTER;
/// QEMU refuses larger L1 tables (32 MiB).
const L1_ENTRIES_MAX: u64 = 4 << 20;
const HEADER_LEN: u32 = 104;
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The longest name that the format allows.
const NAME_MAX: usize = 1023;

/// What a delta is on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backing<'a> {
    /// The file, as the header is to name it.
    pub(crate) file: &'a str,
    /// Its format.
    pub(crate) format: &'a str,
    /// The size that the guest sees.
    pub(crate) virtual_bytes: u64,
}

/// Writes the file at `path`, where there is none yet; its data is synced when it returns.
///
/// # Errors
/// `Failed`; what was written is left, and means nothing.
pub(crate) fn write(files: &Files, path: &Path, backing: &Backing<'_>) -> Result<()> {
    let l1_entries = backing.virtual_bytes.div_ceil(L1_COVERS).max(1);
    if backing.file.len() > NAME_MAX || backing.format.len() > 64 || l1_entries > L1_ENTRIES_MAX {
        return Err(Error::failed(format!(
            "a delta on '{}' of {} bytes is beyond what qcow2 can be",
            backing.file, backing.virtual_bytes
        )));
    }
    let clusters = 3 + (l1_entries * 8).div_ceil(CLUSTER);
    let counts: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    let mut file = files.create(path)?;
    let mut write = || {
        file.set_len(clusters * CLUSTER)?;
        file.write_at(0, &header(backing, l1_entries))?;
        file.write_at(CLUSTER, &(2 * CLUSTER).to_be_bytes())?;
        file.write_at(2 * CLUSTER, &counts)?;
        file.sync()
    };
    write().map_err(|error| io_error(&format!("cannot write layer '{}'", path.display()), error))
}

fn header(backing: &Backing<'_>, l1_entries: u64) -> Vec<u8> {
    let mut extensions = BACKING_FORMAT.to_be_bytes().to_vec();
    extensions.extend(len32(backing.format.len()));
    extensions.extend(backing.format.as_bytes());
    extensions.resize(extensions.len().next_multiple_of(8), 0);
    // The end of extensions: type 0, length 0.
    extensions.extend([0; 8]);
    let name_offset = u64::from(HEADER_LEN) + extensions.len() as u64;
    let l1_size = u32::try_from(l1_entries).unwrap_or(u32::MAX);
    let fields: [&[u8]; 17] = [
        b"QFI\xfb",
        &3_u32.to_be_bytes(),
        &name_offset.to_be_bytes(),
        &len32(backing.file.len()),
        &CLUSTER_BITS.to_be_bytes(),
        // In whole sectors, as every program has it.
        &backing.virtual_bytes.next_multiple_of(512).to_be_bytes(),
        // No encryption.
        &0_u32.to_be_bytes(),
        &l1_size.to_be_bytes(),
        &(3 * CLUSTER).to_be_bytes(),
        &CLUSTER.to_be_bytes(),
        // Clusters of the refcount table.
        &1_u32.to_be_bytes(),
        // No internal snapshots.
        &[0; 12],
        // No incompatible, compatible, or autoclear features.
        &[0; 24],
        // Counts of 2^4 bits.
        &4_u32.to_be_bytes(),
        &HEADER_LEN.to_be_bytes(),
        &extensions,
        backing.file.as_bytes(),
    ];
    fields.concat()
}

fn len32(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::layers::qcow2;

    /// QEMU must take it for sound, read the backing file's data through it, and be able to write all of it.
    #[test]
    fn qemu_takes_it_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(dir.path()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {text} {output:?}");
            text
        };
        for (size, base) in [("64M", "raw"), ("3T", "qcow2"), ("66060800", "raw")] {
            run("qemu-img", &["create", "-q", "-f", base, "base", size]);
            run("qemu-io", &["-f", base, "-c", "write -P 7 1M 64k", "base"]);
            let path = dir.path().join("delta");
            let info = run("qemu-img", &["info", "--output=json", "-f", base, "base"]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            let virtual_bytes = info["virtual-size"].as_u64().unwrap();
            let _ = std::fs::remove_file(&path);
            write(&Files::of_this_host(), &path, &Backing { file: "base", format: base, virtual_bytes })
                .unwrap();
            run("qemu-img", &["check", "-f", "qcow2", "delta"]);
            assert!(qcow2::is_empty(&path).unwrap());
            run("qemu-io", &["-f", "qcow2", "-c", "read -P 7 1M 64k", "-c", "write -P 9 8M 3M", "delta"]);
            run("qemu-io", &["-f", "qcow2", "-c", "read -P 9 8M 3M", "delta"]);
            run("qemu-img", &["check", "-f", "qcow2", "delta"]);
            let info = run("qemu-img", &["info", "--output=json", "delta"]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["virtual-size"], virtual_bytes);
            assert_eq!(
                (&info["backing-filename"], &info["backing-filename-format"]),
                (&"base".into(), &base.into())
            );
            assert!(!qcow2::is_empty(&path).unwrap());
        }
    }

    /// A name that does not fit must not be cut.
    #[test]
    fn what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(1024);
        let path = dir.path().join("delta");
        let backing = Backing { file: &long, format: "raw", virtual_bytes: 512 };
        let error = write(&Files::of_this_host(), &path, &backing).unwrap_err();
        assert!(error.to_string().contains("beyond"), "{error}");
    }
}
