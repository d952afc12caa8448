//! Reads the little of a qcow2 header that must be known before any other program opens the file: whether it points
//! at other host files, and whether any data was ever written to it.
//!
//! Format: QEMU's docs/interop/qcow2.rst. Every length is bounded; nothing here writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::root::file::io_error;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The longest backing file name that the format allows.
const BACKING_NAME_MAX: u32 = 1023;
/// QEMU refuses larger L1 tables (32 MiB).
const L1_ENTRIES_MAX: u32 = 4 << 20;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The file below this one, as the header names it.
    pub(crate) backing_file: Option<String>,
    /// Whether the guest's data lies in another file.
    pub(crate) external_data: bool,
    /// The size that the guest sees, in bytes.
    pub(crate) virtual_bytes: u64,
    l1_entries: u32,
    l1_offset: u64,
}

/// Reads the header of `path`. `None` where the file is not qcow2.
///
/// # Errors
/// `Failed` where the file can't be read, `Damaged` where the header can't be right.
pub(crate) fn read_header(path: &Path) -> Result<Option<Header>> {
    let file = File::open(path)
        .map_err(|error| io_error(&format!("cannot open image '{}'", path.display()), error))?;
    let mut bytes = [0_u8; 104];
    let got = read_up_to(&file, &mut bytes, 0, path)?;
    if got < 4 || bytes[..4] != MAGIC {
        return Ok(None);
    }
    let damaged =
        |what: &str| Error::damaged(format!("image '{}' has a damaged qcow2 header: {what}", path.display()));
    if got < 72 {
        return Err(damaged("it ends early"));
    }
    let version = be32(&bytes, 4);
    let backing_offset = be64(&bytes, 8);
    let backing_size = be32(&bytes, 16);
    let incompatible = if version >= 3 && got >= 80 { be64(&bytes, 72) } else { 0 };
    let backing_file = if backing_offset == 0 {
        None
    } else {
        if backing_size > BACKING_NAME_MAX {
            return Err(damaged("the backing file's name is too long"));
        }
        let mut name = vec![0_u8; backing_size as usize];
        if read_up_to(&file, &mut name, backing_offset, path)? < name.len() {
            return Err(damaged("the backing file's name lies beyond the end"));
        }
        Some(String::from_utf8_lossy(&name).into_owned())
    };
    Ok(Some(Header {
        backing_file,
        external_data: incompatible & INCOMPATIBLE_DATA_FILE != 0,
        virtual_bytes: be64(&bytes, 24),
        l1_entries: be32(&bytes, 36),
        l1_offset: be64(&bytes, 40),
    }))
}

/// Whether a qcow2 file that no QEMU has open holds no data cluster at all: its L1 table is empty.
pub(crate) fn is_empty(path: &Path) -> Result<bool> {
    let Some(header) = read_header(path)? else { return Ok(false) };
    if header.l1_entries > L1_ENTRIES_MAX {
        return Ok(false);
    }
    let file = File::open(path)
        .map_err(|error| io_error(&format!("cannot open image '{}'", path.display()), error))?;
    let mut table = vec![0_u8; header.l1_entries as usize * 8];
    let got = read_up_to(&file, &mut table, header.l1_offset, path)?;
    Ok(got == table.len() && table.iter().all(|byte| *byte == 0))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64, path: &Path) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error(&format!("cannot read image '{}'", path.display()), error)),
        }
    }
    Ok(done)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::image_tool::qemu_img;

    /// A header of a real image says what qemu-img put there.
    #[test]
    fn headers_of_real_images() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        qemu_img("t", &["create", "-q", "-f", "qcow2", &path("plain"), "64M"]).unwrap();
        let plain = read_header(Path::new(&path("plain"))).unwrap().unwrap();
        assert_eq!((plain.backing_file.as_deref(), plain.external_data), (None, false));
        let backing = "../../etc/shadow";
        qemu_img(
            "t",
            &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, &path("top"), "64M"],
        )
        .unwrap();
        assert_eq!(
            read_header(Path::new(&path("top"))).unwrap().unwrap().backing_file.as_deref(),
            Some(backing)
        );
        let option = format!("data_file={}", path("data"));
        qemu_img("t", &["create", "-q", "-f", "qcow2", "-o", &option, &path("outside"), "64M"]).unwrap();
        assert!(read_header(Path::new(&path("outside"))).unwrap().unwrap().external_data);
        std::fs::write(path("raw"), [0; 512]).unwrap();
        assert_eq!(read_header(Path::new(&path("raw"))).unwrap(), None);
    }

    /// A delta counts as empty only until the first write: an undo point must never be dropped with data in it.
    #[test]
    fn empty_until_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let name = path.to_str().unwrap();
        qemu_img("t", &["create", "-q", "-f", "qcow2", name, "64M"]).unwrap();
        assert!(is_empty(&path).unwrap());
        let status =
            std::process::Command::new("qemu-io").args(["-c", "write 40M 4k", name]).output().unwrap().status;
        assert!(status.success());
        assert!(!is_empty(&path).unwrap());
    }

    /// Cut-off headers are errors or "not qcow2", never a panic.
    #[test]
    fn truncated_headers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let name = path.to_str().unwrap();
        qemu_img("t", &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base", name, "1M"]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..200.min(whole.len()) {
            std::fs::write(&path, &whole[..len]).unwrap();
            match read_header(&path) {
                Ok(None) => assert!(len < 4),
                Ok(Some(header)) => assert!(len >= 72 && header.backing_file.is_none() || len > 104),
                Err(error) => assert_eq!(error.kind(), crate::error::ErrorKind::Damaged, "{len}"),
            }
        }
    }
}
