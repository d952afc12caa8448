//! The steps that durable work on files is made of.
//!
//! Each is one thing that a crash can come before or after. What of it is on the disk then only the syncs say: a file's
//! content lasts once the file is synced, an entry of a folder (a creation, a renaming, a removal) once the folder is.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::Metadata;
use std::io;
use std::path::Path;

/// The mode of files that only their owner reads.
pub const PRIVATE_FILE: u32 = 0o600;
/// The mode of folders that only their owner enters.
pub const PRIVATE_DIR: u32 = 0o700;

/// A file system, by the steps that durable work needs.
///
/// No step follows a symbolic link that stands at the very path it is given.
pub trait Disk: Debug + Send + Sync {
    /// Reads a file of at most `most` bytes.
    ///
    /// # Errors
    /// Of kind `InvalidData` where a link, a pipe, a folder or anything else than a file is there, or where it is longer;
    /// it never waits for a writer.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// The names in a folder, in no order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;

    /// What the system knows of the entry at `path`; of a link, the link.
    ///
    /// # Errors
    /// What the system says.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// `AlreadyExists` where anything is there, a link too.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Syncs the content of a file that others wrote. The head of this crate says when that proves anything.
    ///
    /// # Errors
    /// The write-back error that was not told to anybody yet, or what the system says.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Syncs a folder's entries.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, folder: &Path) -> io::Result<()>;

    /// Gives a file or folder another place, replacing a file or an empty folder there, in one step.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, or a link.
    ///
    /// # Errors
    /// What the system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder.
    ///
    /// # Errors
    /// `AlreadyExists` where anything is there.
    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// Changes the permissions of a file.
    ///
    /// # Errors
    /// What the system says.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// How much can still be written.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// A number for a temporary name that nobody else uses or foresees.
    ///
    /// # Errors
    /// Where the system has no randomness.
    fn random(&self) -> io::Result<u64>;
}

/// A file that is being made.
pub trait DiskFile: Debug + Send {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes the file that long; what is new reads as zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// What of it could not be written; it is unknown then what the disk holds.
    fn sync(&mut self) -> io::Result<()>;
}
