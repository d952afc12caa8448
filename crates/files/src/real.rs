//! The file system of this host.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::disk::{Disk, DiskFile};

/// The file system of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let file = open_regular(path, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        // One more than is allowed, so that a file that grows meanwhile is noticed too.
        (&file).take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(not_as_expected(&format!("it is longer than {most} bytes")));
        }
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        std::fs::symlink_metadata(path)
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, how, Mode::from_raw_mode(mode))?;
        Ok(Box::new(RealFile(file.into())))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        open_regular(path, OFlags::RDONLY)?.sync_all()
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().mode(mode).create(path)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        open_regular(path, OFlags::RDONLY)?.set_permissions(Permissions::from_mode(mode))
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn random(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        #[expect(
            clippy::disallowed_methods,
            reason = "a temporary name is nothing that a test could want to fix"
        )]
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// A file of this host that is being made.
#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Opens a regular file that is at `path` itself.
///
/// # Errors
/// `InvalidData` for anything else that is there. Without `NONBLOCK` a pipe would keep the caller until somebody writes.
pub(crate) fn open_regular(path: &Path, how: OFlags) -> io::Result<File> {
    let how = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, how, Mode::from_raw_mode(crate::disk::PRIVATE_FILE)) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(not_as_expected("it is a symbolic link")),
        // A pipe that nobody reads, a socket, a folder that was to be written.
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::ISDIR) => {
            return Err(not_as_expected("it is not a file"));
        }
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_as_expected("it is not a file")) }
}

fn not_as_expected(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Guards readers against what somebody else, or damage, put where a file should be: a pipe would keep them for
    /// ever, a link would lead them elsewhere, a file without end would fill the memory.
    #[test]
    fn only_files_of_a_sane_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        assert_eq!(RealDisk.read(&path("file"), 5).unwrap(), b"12345");
        for bad in ["pipe", "socket", "folder", "link", "dangling"] {
            assert_eq!(RealDisk.read(&path(bad), 5).unwrap_err().kind(), ErrorKind::InvalidData, "{bad}");
            assert!(RealDisk.sync_file(&path(bad)).is_err(), "{bad}");
            assert!(RealDisk.set_mode(&path(bad), 0o777).is_err(), "{bad}");
        }
        assert_eq!(RealDisk.read(&path("file"), 4).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(RealDisk.read(&path("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// Guards whatever is already there, wherever it leads.
    #[test]
    fn nothing_is_made_over_anything() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("victim"), "keep").unwrap();
        std::os::unix::fs::symlink(path("victim"), path("link")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling")).unwrap();
        for taken in ["victim", "link", "dangling"] {
            let error = RealDisk.create_new(&path(taken), 0o600).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{taken}");
        }
        assert_eq!(std::fs::read(path("victim")).unwrap(), b"keep");
        assert!(!path("nowhere").exists());
        let mut file = RealDisk.create_new(&path("new"), 0o600).unwrap();
        file.write_at(2, b"ab").unwrap();
        file.set_len(6).unwrap();
        file.sync().unwrap();
        assert_eq!(std::fs::read(path("new")).unwrap(), b"\0\0ab\0\0");
        assert_eq!(std::fs::metadata(path("new")).unwrap().mode() & 0o777, 0o600);
    }
}
