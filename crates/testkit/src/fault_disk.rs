//! A disk whose step of a chosen number fails, or that is full from one on: over the real one, for roots in which VMs run.
//!
//! Only what changes something is a step. One that fails changes nothing, and the others work.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmrewind_files::{Disk, DiskFile, RealDisk};

/// A disk of which steps fail. Copies are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    steps: Vec<String>,
    /// Number of the step that fails, and the system's error number.
    fault: Option<(usize, i32)>,
    /// Number of the step from which on there is no room.
    full_from: Option<usize>,
}

/// What a step asks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Room,
    Nothing,
}

impl FaultDisk {
    /// Lets the step of that number, counted from now on, fail with the system's error `errno`.
    pub fn fail_after(&self, pass: usize, errno: i32) {
        let mut state = self.state();
        state.fault = Some((state.steps.len() + pass, errno));
    }

    /// Lets the disk be full after so many steps from now on: what may take room fails, removing does not.
    pub fn fill_after(&self, pass: usize) {
        let mut state = self.state();
        state.full_from = Some(state.steps.len() + pass);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.fault, state.full_from) = (None, None);
    }

    /// What each step was, in order, those that failed too.
    pub fn steps(&self) -> Vec<String> {
        self.state().steps.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step<T>(&self, what: String, need: Need, real: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let number = state.steps.len();
        state.steps.push(what);
        if let Some((_, errno)) = state.fault.filter(|(at, _)| *at == number) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if need == Need::Room && state.full_from.is_some_and(|from| number >= from) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        drop(state);
        real()
    }
}

impl Disk for FaultDisk {
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        RealDisk.read(path, most)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        RealDisk.list(folder)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealDisk.metadata(path)
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let make = || RealDisk.create_new(path, mode);
        let inner = self.step(format!("create {}", path.display()), Need::Room, make)?;
        Ok(Box::new(FaultFile { disk: self.clone(), path: path.display().to_string(), inner }))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.step(format!("sync {}", path.display()), Need::Room, || RealDisk.sync_file(path))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.step(format!("sync folder {}", folder.display()), Need::Nothing, || RealDisk.sync_dir(folder))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(format!("rename to {}", to.display()), Need::Room, || RealDisk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step(format!("remove {}", path.display()), Need::Nothing, || RealDisk.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step(format!("remove folder {}", path.display()), Need::Nothing, || RealDisk.remove_dir(path))
    }

    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.step(format!("make folder {}", path.display()), Need::Room, || RealDisk.make_dir(path, mode))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.step(format!("set mode of {}", path.display()), Need::Nothing, || RealDisk.set_mode(path, mode))
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(folder)
    }

    fn random(&self) -> io::Result<u64> {
        RealDisk.random()
    }
}

/// An open file of a [`FaultDisk`].
#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    path: String,
    inner: Box<dyn DiskFile>,
}

impl DiskFile for FaultFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let inner = &mut self.inner;
        self.disk.step(format!("write {}", self.path), Need::Room, || inner.write_at(offset, data))
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        let inner = &mut self.inner;
        self.disk.step(format!("set length of {}", self.path), Need::Room, || inner.set_len(bytes))
    }

    fn sync(&mut self) -> io::Result<()> {
        let inner = &mut self.inner;
        self.disk.step(format!("sync {}", self.path), Need::Room, || inner.sync())
    }
}

#[cfg(test)]
mod tests {
    use vmrewind_files::write_atomic;

    use super::*;

    /// Guards the tests that use it: a step that is to fail does, changes nothing, and no other does.
    #[test]
    fn each_step_of_a_write_can_fail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let disk = FaultDisk::default();
        write_atomic(&disk, &path, b"old").unwrap();
        let steps = disk.steps().len();
        assert!(steps >= 4, "{:?}", disk.steps());
        for step in 0..steps {
            for fill in [false, true] {
                let disk = FaultDisk::default();
                if fill {
                    disk.fill_after(step);
                } else {
                    disk.fail_after(step, 5);
                }
                let done = write_atomic(&disk, &path, b"new");
                let found = std::fs::read(&path).unwrap();
                let failed = disk.steps()[step].clone();
                assert!(found == b"old" || found == b"new", "{failed}");
                assert_eq!(done.is_err(), !fill || !failed.contains("folder"), "{failed}");
                disk.heal();
                write_atomic(&disk, &path, b"old").unwrap();
            }
        }
    }
}
