//! Files that are written whole, or not at all.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, PRIVATE_FILE};

/// How the name of a file ends that is not finished.
const TEMPORARY: &str = ".tmp";

/// The name that an unfinished next content is for: `X` of `X.0123456789abcdef.tmp`. `None` for any other file.
///
/// Such a file means nothing: its writer died, or is about to rename it. Who removes one that is still written makes that
/// write fail, and nothing else.
pub fn unfinished(path: &Path) -> Option<&str> {
    let (name, random) = path.file_name()?.to_str()?.strip_suffix(TEMPORARY)?.rsplit_once('.')?;
    (random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
}

/// Makes `path` hold exactly `bytes`, durable when this returns.
///
/// A temporary file, its data synced by the description that wrote it, renamed over `path`, the folder synced. A crash
/// leaves the old content or the new, never a part, and can leave the temporary file. Several writers do not get into each
/// other's way: the last one to rename wins, with all of its content.
///
/// # Errors
/// What the system says. Before the renaming the old content stands; where the folder's sync fails, either does.
pub fn write_atomic(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(disk, path, bytes, Lasts::Yes)?;
    disk.sync_dir(parent(path))
}

/// Makes `path` hold exactly `bytes`, whole for every reader, without making it last.
///
/// For what a power cut makes meaningless anyway. After one the file can be empty, too.
///
/// # Errors
/// What the system says; the old content stands then.
pub fn replace_volatile(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(disk, path, bytes, Lasts::No)
}

/// Makes the file `path`, which is not there yet. Its data is synced; its entry is the caller's to sync.
///
/// # Errors
/// What the system says; what was written of it is removed.
pub fn write_new(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fill(disk, path, bytes, Lasts::Yes)
}

/// The one place where a file is put into the place of another.
fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8], lasts: Lasts) -> io::Result<()> {
    let temporary = temporary(disk, path)?;
    fill(disk, &temporary, bytes, lasts)?;
    disk.rename(&temporary, path).inspect_err(|_| drop(disk.remove_file(&temporary)))
}

/// Whether content is made to outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    Yes,
    No,
}

fn fill(disk: &dyn Disk, path: &Path, bytes: &[u8], lasts: Lasts) -> io::Result<()> {
    // Not removed where it can't be made: it would be somebody else's.
    let mut file = disk.create_new(path, PRIVATE_FILE)?;
    file.write_at(0, bytes)
        .and_then(|()| if lasts == Lasts::Yes { file.sync() } else { Ok(()) })
        .inspect_err(|_| drop(disk.remove_file(path)))
}

/// A name beside `path` that nobody else uses: two writers, in one process or two, must not share it.
fn temporary(disk: &dyn Disk, path: &Path) -> io::Result<PathBuf> {
    let mut name: OsString = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:016x}{TEMPORARY}", disk.random()?));
    Ok(path.with_file_name(name))
}

/// The folder that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealDisk;

    /// Guards readers while several threads write one file: with one temporary name for all of them, one would rename
    /// what another is just writing.
    #[test]
    fn readers_never_see_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content = |writer: u8| vec![writer; 40_000 + usize::from(writer)];
        write_atomic(&RealDisk, &path, &content(0)).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for round in 0..25 {
                        let write = if round % 2 == 0 { write_atomic } else { replace_volatile };
                        write(&RealDisk, path, &content(writer)).unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let found = std::fs::read(&path).unwrap();
                let first = *found.first().unwrap();
                assert_eq!(found, content(first));
            }
        });
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file stays");
    }

    /// Guards files that only look like ours from being swept, and what a dead writer left from staying.
    #[test]
    fn unfinished_files_are_known() {
        let path = Path::new("/x/vm.json");
        assert_eq!(unfinished(&temporary(&RealDisk, path).unwrap()), Some("vm.json"));
        for other in ["vm.json", "vm.json.tmp", "vm.json.0123456789abcdeg.tmp", "vm.json.0123.tmp", ".tmp"] {
            assert_eq!(unfinished(Path::new(other)), None, "{other}");
        }
    }

    /// Guards the old content, and the folder, where the new can't be put in place.
    #[test]
    fn a_failure_leaves_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        std::fs::create_dir_all(path.join("full")).unwrap();
        write_atomic(&RealDisk, &path, b"new").unwrap_err();
        assert!(path.join("full").is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(dir.path().join("taken"), b"old").unwrap();
        write_new(&RealDisk, &dir.path().join("taken"), b"new").unwrap_err();
        assert_eq!(std::fs::read(dir.path().join("taken")).unwrap(), b"old");
    }
}
