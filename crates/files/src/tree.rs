//! Folders made with those above them, and removed with all that is in them.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::disk::{Disk, PRIVATE_DIR};

/// Makes a folder and those above it that are missing, each entry durable; only the user gets in.
///
/// # Errors
/// What the system says; folders above can have been made.
pub fn make_dirs(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    // A link to a folder, as an administrator may put one, is as good as the folder.
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dirs(disk, parent)?;
    }
    match disk.make_dir(path, PRIVATE_DIR) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        // One that somebody else has just made is not known to be durable either.
        _ => disk.sync_dir(parent.unwrap_or(Path::new("."))),
    }
}

/// Removes a folder with all that is in it, or a file, or a link (not what it leads to). One that is not there is fine.
///
/// Nothing is synced: what a crash brings back is to be removed again.
///
/// # Errors
/// What the system says; some of it can be gone.
pub fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let metadata = match disk.metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    let removed = if metadata.is_dir() {
        for name in disk.list(path)? {
            remove_tree(disk, &path.join(name))?;
        }
        disk.remove_dir(path)
    } else {
        disk.remove_file(path)
    };
    match removed {
        // Another command removes it too.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealDisk;

    /// Guards what a link in the folder leads to: only the link may go.
    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        make_dirs(&RealDisk, &path("a/b/c")).unwrap();
        make_dirs(&RealDisk, &path("a/b/c")).unwrap();
        std::fs::create_dir(path("other")).unwrap();
        std::fs::write(path("other/keep"), "x").unwrap();
        std::os::unix::fs::symlink(path("other"), path("a/b/link")).unwrap();
        std::os::unix::fs::symlink(path("other/keep"), path("a/file-link")).unwrap();
        remove_tree(&RealDisk, &path("a")).unwrap();
        remove_tree(&RealDisk, &path("a")).unwrap();
        assert!(!path("a").exists());
        assert_eq!(std::fs::read(path("other/keep")).unwrap(), b"x");
    }
}
