//! A folder outside the source tree for what is slow to make: each result in a folder named by the hash of its inputs.
//!
//! A result is made in a temporary folder and renamed when whole, under a lock, so a test process that is killed
//! leaves nothing half-made and processes that start together build once.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// Where guests are cached: `VMREWIND_TESTKIT_CACHE`, or `vmrewind-testkit` in the user's cache folder.
///
/// `./x setup` puts the kernel package there by the same rule.
pub fn cache_folder() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user_cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    set("VMREWIND_TESTKIT_CACHE")
        .or_else(|| Some(user_cache()?.join("vmrewind-testkit")))
        .unwrap_or_else(|| env::temp_dir().join("vmrewind-testkit"))
}

/// Returns the folder that `make` filled from `inputs`, making it when it isn't there.
pub(super) fn built(inputs: &impl Hash, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_folder();
    let folder = cache.join(name_of(inputs));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).map_err(Error::io("create", &cache))?;
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).map_err(Error::io("create", &lock_path))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|errno| Error::io("lock", &lock_path)(errno.into()))?;
    if !folder.is_dir() {
        let making = tempfile::tempdir_in(&cache).map_err(Error::io("create a folder in", &cache))?;
        make(making.path())?;
        fs::rename(making.keep(), &folder).map_err(Error::io("put in place", &folder))?;
    }
    Ok(folder)
}

fn name_of(inputs: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    format!("guest-{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against using a guest built from older sources.
    #[test]
    fn other_inputs_have_another_name() {
        assert_eq!(name_of(&["a", "b"]), name_of(&["a", "b"]));
        assert_ne!(name_of(&["a", "b"]), name_of(&["ab", ""]));
    }
}
