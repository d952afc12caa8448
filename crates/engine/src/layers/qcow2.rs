//! Reads the little of a qcow2 header that must be known before any other program opens the file: whether it points
//! at other host files, and whether any data was ever written to it.
//!
//! Format: QEMU's docs/interop/qcow2.rst. Every length is bounded; nothing here writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::root::file::io_error;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The longest backing file name that the format allows.
const BACKING_NAME_MAX: u32 = 1023;
/// QEMU refuses larger L1 tables (32 MiB).
const L1_ENTRIES_MAX: u32 = 4 << 20;
/// What QEMU takes for the size of a cluster, as a power of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Not closed properly (lazy refcounts); found corrupt by QEMU.
const INCOMPATIBLE_STATE: u64 = 1 << 0 | 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Entries of L2 tables take 16 bytes rather than 8.
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The file below this one, as the header names it.
    pub(crate) backing_file: Option<String>,
    /// Whether the guest's data lies in another file.
    pub(crate) external_data: bool,
    /// The size that the guest sees, in bytes.
    pub(crate) virtual_bytes: u64,
    version: u32,
    incompatible: u64,
    cluster_bits: u32,
    extended_l2: bool,
    l1_entries: u32,
    l1_offset: u64,
}

/// Reads the header of `path`. `None` where the file is not qcow2.
///
/// # Errors
/// `Failed` where the file can't be read, `Damaged` where the header can't be right.
pub(crate) fn read_header(path: &Path) -> Result<Option<Header>> {
    Header::read(&open(path)?).map_err(|unreadable| unreadable.of(path))
}

/// Whether a qcow2 file that no QEMU has open is known to hold no data cluster at all: its L1 table is whole, and empty.
pub(crate) fn is_empty(path: &Path) -> Result<bool> {
    let file = open(path)?;
    let header = Header::read(&file).map_err(|unreadable| unreadable.of(path))?;
    let Some(header) = header else { return Ok(false) };
    header.is_empty(&file).map_err(|error| Unreadable::Io(error).of(path))
}

/// Whether anything was ever written through a qcow2 file that no QEMU has open.
///
/// Nothing was through one that ends within its L1 table: a power cut left it while it was made, and a layer is whole and
/// synced before QEMU opens it.
pub(crate) fn has_data(path: &Path) -> Result<bool> {
    let file = open(path)?;
    let header = Header::read(&file).map_err(|unreadable| unreadable.of(path))?;
    let Some(header) = header else { return Ok(false) };
    header.has_data(&file).map_err(|error| Unreadable::Io(error).of(path))
}

/// Opens an image. A pipe is not waited for: it is none.
fn open(path: &Path) -> Result<File> {
    let cannot = |error| io_error(&format!("cannot open image '{}'", path.display()), error);
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let kind = file.metadata().map_err(cannot)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    Err(Error::damaged(format!("'{}' is neither a file nor a block device", path.display())))
}

/// Where an image is read from: a file, or bytes in a test.
pub(crate) trait Source {
    /// Reads at `offset` until `buffer` is full or the image ends; returns how much that was.
    fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for File {
    fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// Why there is no header.
#[derive(Debug)]
pub(crate) enum Unreadable {
    Io(io::Error),
    Damaged(&'static str),
}

impl Unreadable {
    fn of(self, path: &Path) -> Error {
        match self {
            Self::Io(error) => io_error(&format!("cannot read image '{}'", path.display()), error),
            Self::Damaged(what) => {
                Error::damaged(format!("image '{}' has a damaged qcow2 header: {what}", path.display()))
            }
        }
    }
}

impl Header {
    /// Reads the header at the start of `image`. `None` where that is not qcow2.
    pub(crate) fn read(image: &impl Source) -> Result<Option<Self>, Unreadable> {
        let mut bytes = [0_u8; 104];
        let got = image.read_up_to(&mut bytes, 0).map_err(Unreadable::Io)?;
        if got < 4 || bytes[..4] != MAGIC {
            return Ok(None);
        }
        if got < 72 {
            return Err(Unreadable::Damaged("it ends early"));
        }
        let version = be32(&bytes, 4);
        let incompatible = if version >= 3 && got >= 80 { be64(&bytes, 72) } else { 0 };
        Ok(Some(Self {
            backing_file: backing_file(image, be64(&bytes, 8), be32(&bytes, 16))?,
            external_data: incompatible & INCOMPATIBLE_DATA_FILE != 0,
            virtual_bytes: be64(&bytes, 24),
            version,
            incompatible,
            cluster_bits: be32(&bytes, 20),
            extended_l2: incompatible & INCOMPATIBLE_EXTENDED_L2 != 0,
            l1_entries: be32(&bytes, 36),
            l1_offset: be64(&bytes, 40),
        }))
    }

    /// What can't be right of a header that vmrewind wrote and QEMU has kept; else the tables and the data can still be damaged.
    pub(crate) fn flaw_of_a_layer(&self) -> Option<&'static str> {
        if self.version != 3 {
            return Some("its version is not 3");
        }
        if self.incompatible & !INCOMPATIBLE_STATE != 0 {
            return Some("it has features that no layer has");
        }
        match self.entries_needed() {
            None => Some("the size of its clusters, or the place of its L1 table"),
            Some(need) if u64::from(self.l1_entries) < need || self.l1_entries > L1_ENTRIES_MAX => {
                Some("the size of its L1 table")
            }
            Some(_) => None,
        }
    }

    /// Whether `image` is known to hold no data cluster. A table that can't be that of a disk of this size says nothing:
    /// one of no entries would have every damaged image pass for an empty one.
    pub(crate) fn is_empty(&self, image: &impl Source) -> io::Result<bool> {
        if self.l1_entries > L1_ENTRIES_MAX
            || self.entries_needed().is_none_or(|need| u64::from(self.l1_entries) < need)
        {
            return Ok(false);
        }
        let mut table = vec![0_u8; self.l1_entries as usize * 8];
        let got = image.read_up_to(&mut table, self.l1_offset)?;
        Ok(got == table.len() && table.iter().all(|byte| *byte == 0))
    }

    /// Whether the L1 table, as far as it is there, names a cluster. One that is too long to look at is taken to.
    fn has_data(&self, image: &impl Source) -> io::Result<bool> {
        if self.l1_entries > L1_ENTRIES_MAX {
            return Ok(true);
        }
        let mut table = vec![0_u8; self.l1_entries as usize * 8];
        image.read_up_to(&mut table, self.l1_offset)?;
        Ok(table.iter().any(|byte| *byte != 0))
    }

    /// The L1 table within the bytes of an image, for the fuzzer to compare with.
    pub(crate) fn table<'a>(&self, image: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.l1_offset).ok()?;
        image.get(start..start.checked_add(usize::try_from(self.l1_entries).ok()?.checked_mul(8)?)?)
    }

    /// How many entries the L1 table has at least; each stands for a cluster of L2 entries, each of these for a cluster.
    /// A disk of no size has one too: else a header whose size is damaged would need no table to pass for an empty one.
    /// `None` where the place of the table, or the size of a cluster, is none that QEMU takes.
    fn entries_needed(&self) -> Option<u64> {
        if !CLUSTER_BITS.contains(&self.cluster_bits) {
            return None;
        }
        let cluster = 1_u64 << self.cluster_bits;
        let placed = self.l1_offset >= cluster && self.l1_offset.is_multiple_of(cluster);
        let covered_bits = 2 * self.cluster_bits - if self.extended_l2 { 4 } else { 3 };
        placed.then(|| self.virtual_bytes.div_ceil(1 << covered_bits).max(1))
    }
}

fn backing_file(image: &impl Source, offset: u64, length: u32) -> Result<Option<String>, Unreadable> {
    if offset == 0 {
        return Ok(None);
    }
    if length > BACKING_NAME_MAX {
        return Err(Unreadable::Damaged("the backing file's name is too long"));
    }
    let mut name = vec![0_u8; length as usize];
    if image.read_up_to(&mut name, offset).map_err(Unreadable::Io)? < name.len() {
        return Err(Unreadable::Damaged("the backing file's name lies beyond the end"));
    }
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
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
        assert!(is_empty(&path).unwrap() && !has_data(&path).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for len in (512..whole.len()).step_by(512) {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(!has_data(&path).unwrap(), "cut off at {len} while it was made");
        }
        std::fs::write(&path, &whole).unwrap();
        let status =
            std::process::Command::new("qemu-io").args(["-c", "write 40M 4k", name]).output().unwrap().status;
        assert!(status.success());
        assert!(!is_empty(&path).unwrap() && has_data(&path).unwrap());
    }

    /// Guards an undo point's data where the delta's header is damaged: what is not understood is not empty.
    #[test]
    fn damaged_is_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let name = path.to_str().unwrap();
        qemu_img("t", &["create", "-q", "-f", "qcow2", name, "1G"]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert!(is_empty(&path).unwrap());
        // Bytes of: the entries of the table (1G needs two), its offset, the bits of a cluster's size.
        for (at, what) in [(39, "no entry"), (45, "a table in the header"), (23, "tiny clusters")] {
            let mut damaged = whole.clone();
            damaged[at] = u8::from(at == 39);
            std::fs::write(&path, &damaged).unwrap();
            assert!(!is_empty(&path).unwrap(), "{what}");
        }
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
