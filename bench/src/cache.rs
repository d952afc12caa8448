//! The page cache and free memory: what was written is written out, what was read can be forgotten, for figures of a cold
//! start, and free memory is there.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;

use crate::outcome::Outcome;

/// How files were made to be read from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cold {
    /// All caches of the system were dropped.
    Dropped,
    /// The kernel was advised, file by file, which it may ignore where another has a file mapped.
    Advised,
}

impl fmt::Display for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "all caches dropped (/proc/sys/vm/drop_caches)",
            Self::Advised => "posix_fadvise for each file below the folder",
        })
    }
}

/// Writes out all that waits to be written on the folder's file system.
pub(crate) fn sync(folder: &Path) -> Outcome {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Has the kernel forget what it keeps of the files below `folder`: all caches where that is permitted.
pub(crate) fn forget(folder: &Path) -> Outcome<Cold> {
    sync(folder)?;
    if fs::write("/proc/sys/vm/drop_caches", "3\n").is_ok() {
        return Ok(Cold::Dropped);
    }
    advise(folder)?;
    Ok(Cold::Advised)
}

fn advise(folder: &Path) -> Outcome {
    each_file(folder, &mut |path| {
        if let Ok(file) = File::open(path) {
            // Advice that is not taken shows in the figures; there is no other way.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    })
}

/// Reads the files below `folder`, so that the kernel keeps them. Sockets and the like are left out.
pub(crate) fn warm(folder: &Path) -> Outcome {
    each_file(folder, &mut |path| {
        // What vanishes meanwhile is not missed.
        let _ = warm_file(path);
    })
}

/// Reads a file, so that the kernel keeps it.
pub(crate) fn warm_file(path: &Path) -> Outcome {
    std::io::copy(&mut File::open(path)?, &mut std::io::sink())?;
    Ok(())
}

/// Uses so much memory and gives it back, so that what runs next gets memory that is there.
///
/// In a virtual machine whose host takes free memory away, every page that was free for a while is a fault in the host: more
/// work than to compress and write its content, and none of the program's doing.
pub(crate) fn touch_memory(bytes: u64) -> Outcome {
    let mut memory = vec![0_u8; usize::try_from(bytes)?];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    Ok(())
}

/// The bytes that the files below `folder` take on the disk.
pub(crate) fn allocated_bytes(folder: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    each_file(folder, &mut |path| {
        bytes += fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    })?;
    Ok(bytes)
}

/// Calls `visit` for each file below `folder`; links are not followed.
fn each_file(folder: &Path, visit: &mut dyn FnMut(&Path)) -> Outcome {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            each_file(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(&entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figure of bytes: all files count, holes do not.
    #[test]
    fn bytes_on_disk_are_those_of_all_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/data"), vec![1; 1 << 20]).unwrap();
        File::create(folder.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        sync(folder.path()).unwrap();
        let bytes = allocated_bytes(folder.path()).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        warm(folder.path()).unwrap();
        advise(folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("below/data")).unwrap().len(), 1 << 20);
    }
}
