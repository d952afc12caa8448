//! Small files written whole or not at all, and folders whose entries last.
//!
//! [`write_atomic`]: temporary file, data synced, renamed over the old one, folder synced. After a crash there is
//! the old content or the new, never a part; a left-over `.tmp` file is overwritten by the next write.

use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, ErrorKind, Result};

/// Makes `path` hold exactly `bytes`, durable when it returns.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(temporary);
        io_error(&format!("cannot write '{}'", path.display()), error)
    })?;
    sync_parent(path)
}

/// Writes `value` as indented JSON with [`write_atomic`].
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).context(|| format!("cannot encode '{}'", path.display()))?;
    bytes.push(b'\n');
    write_atomic(path, &bytes)
}

/// Reads a JSON file whose `version` must be at most `newest`. `None` where there is no such file.
///
/// # Errors
/// `Damaged` where it is not what it should be, `Refused` where a newer vmrewind wrote it.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(&format!("cannot read '{}'", path.display()), error)),
    };
    let damaged = |error: serde_json::Error| {
        Error::damaged(format!("'{}' is damaged", path.display()))
            .hint("put it back from a backup; docs/format.md says what it holds")
            .because(error)
    };
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version.version > newest {
        return Err(newer_format(path, version.version, newest));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// The refusal of a file that a newer vmrewind wrote.
pub(crate) fn newer_format(path: &Path, found: u32, newest: u32) -> Error {
    Error::refused(format!(
        "'{}' has format version {found}; this vmrewind knows versions up to {newest}",
        path.display()
    ))
    .hint("use the vmrewind that wrote it, or a newer one")
}

/// Syncs the folder that holds `path`, so that the entry lasts.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    sync_dir(parent)
}

/// Syncs a file's data, whoever wrote it.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error(&format!("cannot sync '{}'", path.display()), error))
}

/// Syncs a folder, so that its entries last.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_error(&format!("cannot sync folder '{}'", path.display()), error))
}

/// How much can still be written in a folder; nothing where the file system does not say.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Makes a folder and those above it, each entry durable; only the user gets in, for guests' data is in them.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != IoKind::AlreadyExists => {
            Err(io_error(&format!("cannot make folder '{}'", path.display()), error))
        }
        _ => sync_parent(path),
    }
}

/// Makes one folder that is not there yet, for the user only. Its entry is the caller's to sync.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| io_error(&format!("cannot make folder '{}'", path.display()), error))
}

/// Removes a file; one that is not there is fine. Returns the bytes it held on disk.
pub(crate) fn remove_file(path: &Path) -> Result<u64> {
    let bytes = allocated_bytes(path);
    match fs::remove_file(path) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == IoKind::NotFound => Ok(0),
        Err(error) => Err(io_error(&format!("cannot remove '{}'", path.display()), error)),
    }
}

/// The bytes a file takes on disk; 0 where it is not there.
pub(crate) fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|metadata| metadata.blocks() * 512).unwrap_or(0)
}

/// Says what failed, with a hint for the causes a user can mend.
pub(crate) fn io_error(message: &str, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        IoKind::StorageFull | IoKind::QuotaExceeded => Some("free some space, then try again"),
        IoKind::PermissionDenied => {
            Some("check the owner and mode, or run as the user who owns the root (--root)")
        }
        IoKind::ReadOnlyFilesystem => Some("the file system is mounted read-only"),
        _ => None,
    };
    let wrapped = Error::new(ErrorKind::Failed, message).because(error);
    match hint {
        Some(hint) => wrapped.hint(hint),
        None => wrapped,
    }
}
