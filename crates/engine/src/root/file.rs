//! The engine's files: what it does to them, with errors that say to which.
//!
//! All that has to last is done by a [`Disk`], so that a test can cut the power between any two steps of it: records,
//! journal, manifests, deltas, the folders of VMs, working sets, memory files.
//!
//! What goes past it to the file system: the run folder's sockets, pipes and logs, which no power cut leaves meaning to;
//! locks (`vmrewind_files::Flock`), of which nothing lasts; the content of the user's images and of layers, which is read,
//! never written; `/proc`; the store, which has a storage of its own (`vmrewind_store::Storage`); and the clusters that
//! `qemu-img` frees in a layer that its QEMU has left, which are synced with the layer.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vmrewind_files::{self as files, Disk, DiskFile, PRIVATE_DIR, PRIVATE_FILE};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::root::checksum;

/// The longest record that is read: a VM with as many layers and snapshots as anybody has is far below.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// The file system that a root is on.
#[derive(Debug, Clone)]
pub(crate) struct Files(Arc<dyn Disk>);

impl Files {
    /// The files of a disk.
    pub(crate) fn on(disk: Arc<dyn Disk>) -> Self {
        Self(disk)
    }

    /// The files of this host.
    pub(crate) fn of_this_host() -> Self {
        Self(Arc::new(files::RealDisk))
    }

    /// Makes `path` hold exactly `bytes`, durable when it returns. After a crash there is the old content or the new.
    pub(crate) fn write_atomic(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.did("write", path, files::write_atomic(&*self.0, path, bytes))
    }

    /// Writes `value` as indented JSON with a checksum, durable and whole.
    pub(crate) fn write_json<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        self.write_atomic(path, &json(path, value)?)
    }

    /// Writes `value` as JSON with a checksum, whole for every reader, without making it last.
    pub(crate) fn write_volatile<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        self.did("write", path, files::replace_volatile(&*self.0, path, &json(path, value)?))
    }

    /// Reads a JSON file whose `version` must be at most `newest`. `None` where there is no such file.
    ///
    /// # Errors
    /// `Damaged` where it is not what it should be, `Refused` where a newer vmrewind wrote it.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, path: &Path, newest: u32) -> Result<Option<T>> {
        let bytes = self.read(path, RECORD_BYTES_MAX)?;
        bytes.map(|bytes| decode_json(&bytes, path, newest)).transpose()
    }

    /// Reads a file of at most `most` bytes. `None` where there is none.
    ///
    /// # Errors
    /// `Damaged` where it is longer, or no file: a link is not followed, and a pipe not waited for.
    pub(crate) fn read(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        match self.0.read(path, most) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == IoKind::NotFound => Ok(None),
            Err(error) if error.kind() == IoKind::InvalidData => Err(damaged_record(path).because(error)),
            Err(error) => Err(io_error(&format!("cannot read '{}'", path.display()), error)),
        }
    }

    /// The entries of a folder.
    pub(crate) fn list(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let names: Vec<OsString> = self.did("read", folder, self.0.list(folder))?;
        Ok(names.iter().map(|name| folder.join(name)).collect())
    }

    /// Makes a private file that is not there yet.
    pub(crate) fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        self.did("make", path, self.0.create_new(path, PRIVATE_FILE))
    }

    /// Makes a private file that is not there yet; its data is synced, its entry is the caller's to sync.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.did("write", path, files::write_new(&*self.0, path, bytes))
    }

    /// Syncs a file's data that others wrote. What that proves the crate `vmrewind_files` says.
    pub(crate) fn sync_file(&self, path: &Path) -> Result<()> {
        self.did("sync", path, self.0.sync_file(path))
    }

    /// Syncs a folder, so that its entries last.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.did("sync folder", path, self.0.sync_dir(path))
    }

    /// Syncs the folder that holds `path`, so that the entry lasts.
    pub(crate) fn sync_parent(&self, path: &Path) -> Result<()> {
        self.sync_dir(path.parent().unwrap_or(Path::new("/")))
    }

    /// Gives a file or folder another place, in one step. That lasts once the folder is synced.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    /// Makes a folder and those above it, each entry durable; only the user gets in, for guests' data is in them.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<()> {
        self.did("make folder", path, files::make_dirs(&*self.0, path))
    }

    /// Makes one folder that is not there yet, for the user only. Its entry is the caller's to sync.
    pub(crate) fn private_dir(&self, path: &Path) -> Result<()> {
        self.did("make folder", path, self.0.make_dir(path, PRIVATE_DIR))
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<()> {
        match self.0.remove_file(path) {
            Err(error) if error.kind() == IoKind::NotFound => Ok(()),
            removed => self.did("remove", path, removed),
        }
    }

    /// Removes an empty folder.
    pub(crate) fn remove_dir(&self, path: &Path) -> Result<()> {
        self.did("remove", path, self.0.remove_dir(path))
    }

    /// Removes a folder with all that is in it; one that is not there is fine. What a crash brings back is to be removed
    /// again.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<()> {
        self.did("remove", path, files::remove_tree(&*self.0, path))
    }

    /// Changes the permissions of a file.
    pub(crate) fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        self.did("change the mode of", path, self.0.set_mode(path, mode))
    }

    /// How much can still be written in a folder; nothing where the file system does not say.
    pub(crate) fn free_bytes(&self, folder: &Path) -> Option<u64> {
        self.0.free_bytes(folder).ok()
    }

    fn did<T>(&self, what: &str, path: &Path, done: io::Result<T>) -> Result<T> {
        done.map_err(|error| io_error(&format!("cannot {what} '{}'", path.display()), error))
    }
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    let text =
        serde_json::to_string_pretty(value).context(|| format!("cannot encode '{}'", path.display()))?;
    Ok((checksum::add(&text)? + "\n").into_bytes())
}

fn wrong_checksum(path: &Path) -> Error {
    Error::damaged(format!("'{}' is damaged: its content does not fit its checksum", path.display()))
        .with_hint(Hint::ChangedRecord)
}

/// Takes `bytes`, read from `path`, for a JSON file whose `version` must be at most `newest`.
///
/// # Errors
/// As [`Files::read_json`].
pub(crate) fn decode_json<T: DeserializeOwned>(bytes: &[u8], path: &Path, newest: u32) -> Result<T> {
    let damaged = |error: serde_json::Error| damaged_record(path).because(error);
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
    // First, since it means the same in every version: a flipped bit can look like a newer one.
    if !checksum::is_right(&serde_json::from_slice(bytes).map_err(damaged)?) {
        return Err(wrong_checksum(path));
    }
    if version.version > newest {
        return Err(newer_format(path, version.version, newest));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn damaged_record(path: &Path) -> Error {
    Error::damaged(format!("'{}' is damaged", path.display())).with_hint(Hint::PutRecordBack)
}

/// The refusal of a file that a newer vmrewind wrote.
pub(crate) fn newer_format(path: &Path, found: u32, newest: u32) -> Error {
    Error::refused(format!(
        "'{}' has format version {found}; this vmrewind knows versions up to {newest}",
        path.display()
    ))
    .with_hint(Hint::UseNewer)
}

/// The bytes a file takes on disk; 0 where it is not there.
pub(crate) fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|metadata| metadata.blocks() * 512).unwrap_or(0)
}

/// The error for a file that can't be locked.
pub(crate) fn cannot_lock(path: &Path, error: io::Error) -> Error {
    io_error(&format!("cannot lock '{}'", path.display()), error)
}

/// Says what failed, with a hint for the causes a user can mend.
pub(crate) fn io_error(message: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        IoKind::StorageFull | IoKind::QuotaExceeded => Some(Hint::FreeSpace),
        IoKind::PermissionDenied => Some(Hint::OwnerAndMode),
        IoKind::ReadOnlyFilesystem => Some(Hint::ReadOnlyFileSystem),
        _ => None,
    };
    let wrapped = Error::new(ErrorKind::Failed, message).because(error);
    match hint {
        Some(hint) => wrapped.with_hint(hint),
        None => wrapped,
    }
}
