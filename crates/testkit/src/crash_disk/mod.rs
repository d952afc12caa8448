//! A folder of this host that remembers what of it was made durable, and shows what a power cut can leave.
//!
//! [`RecordedDisk`] does every step on real files, so that `qemu-img` and QEMU can work on them, and keeps a model beside them:
//!
//! ```text
//!   write ──▶ pending of the file ──sync_file──▶ durable content
//!   create, rename, remove ──▶ pending names ──sync_dir──▶ durable names
//!   what other programs change is found before the next step, and is pending too
//! ```
//! [`RecordedDisk::crash`] takes the model as it was after any step, throws dice over what was pending then, and puts the
//! result into a fresh folder: pending writes are there, lost, or torn into sectors; of the pending changes to names any subset
//! is there, whatever their order was. A renaming is one change: both names, or none. A sync makes a file's content
//! durable but not its name, and the other way round. File systems keep more order than that.
//!
//! A part of the tree can be named whose changes count as durable in the order in which they are made: it has crash tests
//! of its own.

mod model;
mod state;

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmrewind_files::{Disk, DiskFile, RealDisk};

use model::{Change, Model};
pub use state::CrashState;

/// A folder whose history of durable changes is recorded.
#[derive(Debug, Clone)]
pub struct RecordedDisk {
    shared: Arc<Mutex<Recorder>>,
}

#[derive(Debug)]
struct Recorder {
    model: Model,
    /// After each step, and before the first.
    history: Vec<(String, Model)>,
    /// The step at which the power fails: it and all later ones.
    cut_at: Option<usize>,
    /// The step that fails, with the system's error number; nothing else does.
    fail_at: Option<(usize, i32)>,
    randoms: u64,
}

impl RecordedDisk {
    /// Records the folder `root`; what is in it now is durable. What changes below the entries `trusted` of it counts as
    /// durable at once.
    ///
    /// # Errors
    /// Where the folder can't be read.
    pub fn over(root: &Path, trusted: &[&str]) -> io::Result<Self> {
        let trusted = trusted.iter().map(|name| root.join(name)).collect();
        let model = Model::of(root, trusted)?;
        let history = vec![("the beginning".to_owned(), model.clone())];
        let recorder = Recorder { model, history, cut_at: None, fail_at: None, randoms: 0 };
        Ok(Self { shared: Arc::new(Mutex::new(recorder)) })
    }

    /// Makes all durable that is there now, and forgets the history.
    ///
    /// # Errors
    /// Where the folder can't be read.
    pub fn settle(&self) -> io::Result<()> {
        let mut recorder = self.recorder();
        recorder.model.absorb()?;
        recorder.model.settle();
        recorder.history = vec![("the beginning".to_owned(), recorder.model.clone())];
        Ok(())
    }

    /// Lets the power fail at the step of that number, counted from 0: neither it nor any later one happens.
    pub fn cut_power_at(&self, step: usize) {
        self.recorder().cut_at = Some(step);
    }

    /// Lets the step of that number fail with the system's error `errno`; it changes nothing, and the others work.
    pub fn fail_at(&self, step: usize, errno: i32) {
        self.recorder().fail_at = Some((step, errno));
    }

    /// Has the kernel fail to write back what is pending of a file: one sync is told (`EIO`), later ones find nothing to do,
    /// and the data is lost with the power.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    pub fn lose_write_back(&self, path: &Path) -> io::Result<()> {
        let mut recorder = self.recorder();
        recorder.model.absorb()?;
        recorder.model.lose_write_back(path)
    }

    /// What each step was, in order.
    pub fn steps(&self) -> Vec<String> {
        self.recorder().history.iter().skip(1).map(|(step, _)| step.clone()).collect()
    }

    /// What a power cut after that many steps can leave; `seed` throws the dice.
    ///
    /// # Panics
    /// Where there were not so many steps.
    pub fn crash(&self, steps: usize, seed: u64) -> CrashState {
        state::after_crash(&self.recorder().history[steps].1, seed)
    }

    /// As [`RecordedDisk::crash`] at this moment: with what other programs did since the last step.
    ///
    /// # Errors
    /// Where the folder can't be read.
    pub fn crash_now(&self, seed: u64) -> io::Result<CrashState> {
        let mut recorder = self.recorder();
        recorder.model.absorb()?;
        Ok(state::after_crash(&recorder.model, seed))
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // A test that failed while it held the lock has reported that already.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one step: on the real files, then in the model.
    fn step<T>(
        &self,
        what: &str,
        real: impl FnOnce() -> io::Result<T>,
        model: impl FnOnce(&mut Model) -> io::Result<()>,
    ) -> io::Result<T> {
        let mut recorder = self.recorder();
        let number = recorder.history.len() - 1;
        if recorder.cut_at.is_some_and(|at| number >= at) {
            return Err(io::Error::other("the power is off"));
        }
        recorder.model.absorb()?;
        let done = match recorder.fail_at {
            Some((at, errno)) if at == number => Err(io::Error::from_raw_os_error(errno)),
            _ => real().and_then(|value| model(&mut recorder.model).map(|()| value)),
        };
        let failed = if done.is_err() { " (failed)" } else { "" };
        let after = recorder.model.clone();
        recorder.history.push((format!("{what}{failed}"), after));
        done
    }
}

impl Disk for RecordedDisk {
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
        let create = || RealDisk.create_new(path, mode);
        let inner = self.step(&format!("create {}", path.display()), create, |model| model.created(path))?;
        Ok(Box::new(RecordedFile { disk: self.clone(), path: path.to_owned(), inner }))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let sync = || RealDisk.sync_file(path);
        self.step(&format!("sync {}", path.display()), sync, |model| model.sync_file(path))
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let sync = || RealDisk.sync_dir(folder);
        self.step(&format!("sync folder {}", folder.display()), sync, |model| model.sync_dir(folder))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let what = format!("rename {} to {}", from.display(), to.display());
        self.step(&what, || RealDisk.rename(from, to), |model| model.renamed(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let remove = || RealDisk.remove_file(path);
        self.step(&format!("remove {}", path.display()), remove, |model| model.removed(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let remove = || RealDisk.remove_dir(path);
        self.step(&format!("remove folder {}", path.display()), remove, |model| model.removed(path))
    }

    fn make_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let make = || RealDisk.make_dir(path, mode);
        self.step(&format!("make folder {}", path.display()), make, |model| model.created(path))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let set = || RealDisk.set_mode(path, mode);
        self.step(&format!("mode {mode:o} {}", path.display()), set, |model| model.set_mode(path, mode))
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(folder)
    }

    fn random(&self) -> io::Result<u64> {
        let mut recorder = self.recorder();
        recorder.randoms += 1;
        Ok(recorder.randoms)
    }
}

/// A file that is being made.
#[derive(Debug)]
struct RecordedFile {
    disk: RecordedDisk,
    path: PathBuf,
    inner: Box<dyn DiskFile>,
}

impl DiskFile for RecordedFile {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (path, inner) = (&self.path, &mut self.inner);
        let what = format!("write {} bytes at {offset} of {}", data.len(), path.display());
        let change = Change::Write(position(offset)?, data.into());
        self.disk.step(&what, || inner.write_at(offset, data), |model| model.changed(path, change))
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        let (path, inner) = (&self.path, &mut self.inner);
        let change = Change::Length(position(bytes)?);
        let what = format!("set length {bytes} of {}", path.display());
        self.disk.step(&what, || inner.set_len(bytes), |model| model.changed(path, change))
    }

    fn sync(&mut self) -> io::Result<()> {
        let (path, inner) = (&self.path, &mut self.inner);
        self.disk.step(&format!("sync {}", path.display()), || inner.sync(), |model| model.sync_file(path))
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vmrewind_files::write_atomic;

    use super::*;

    /// A folder that is recorded from when it holds the files of these names, with content `old`.
    fn recorded(names: &[&str]) -> (tempfile::TempDir, RecordedDisk) {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), "old").unwrap();
        }
        let disk = RecordedDisk::over(dir.path(), &[]).unwrap();
        (dir, disk)
    }

    /// The contents that a file is found with over many crashes; `None` where it is not there.
    fn found(disk: &RecordedDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
        let look = |seed| {
            let state = disk.crash_now(seed).unwrap();
            let dir = tempfile::tempdir().unwrap();
            state.put_into(dir.path()).unwrap();
            std::fs::read(dir.path().join(name)).ok()
        };
        (0..64).map(look).collect()
    }

    // The test double is worth something only if it really takes away what was not synced, and nothing else.
    #[test]
    fn only_what_was_synced_is_safe() {
        let (dir, disk) = recorded(&[]);
        let path = |name: &str| dir.path().join(name);
        let content = vec![7; 2048];
        let mut file = disk.create_new(&path("a"), 0o600).unwrap();
        file.write_at(0, &content).unwrap();
        let states = found(&disk, "a");
        assert!(states.contains(&None) && states.contains(&Some(content.clone())), "anything can happen");
        assert!(
            states.contains(&Some(Vec::new())) && states.len() > 3,
            "cut off or torn too: {}",
            states.len()
        );
        file.sync().unwrap();
        assert_eq!(found(&disk, "a"), [None, Some(content.clone())].into(), "the name can be lost");
        disk.sync_dir(dir.path()).unwrap();
        assert_eq!(found(&disk, "a"), [Some(content.clone())].into(), "all is durable");
        disk.rename(&path("a"), &path("b")).unwrap();
        assert_eq!(found(&disk, "b"), [None, Some(content.clone())].into(), "the new name can be lost");
        assert_eq!(found(&disk, "a"), [None, Some(content.clone())].into(), "or the old one be back");
        disk.sync_dir(dir.path()).unwrap();
        disk.remove_file(&path("b")).unwrap();
        assert_eq!(found(&disk, "b"), [None, Some(content)].into(), "a removal can be lost");
    }

    // What other programs write is as little durable as what we write: qemu-img and QEMU do not sync for us.
    #[test]
    fn what_others_do_is_pending() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("trusted")).unwrap();
        std::fs::write(path("a"), "old").unwrap();
        let disk = RecordedDisk::over(dir.path(), &["trusted"]).unwrap();
        std::fs::write(path("a"), "newer").unwrap();
        std::fs::write(path("trusted/b"), "kept").unwrap();
        let states = found(&disk, "a");
        assert!(states.contains(&Some(b"old".to_vec())) && states.contains(&Some(b"newer".to_vec())));
        assert_eq!(found(&disk, "trusted/b"), [Some(b"kept".to_vec())].into());
        disk.sync_file(&path("a")).unwrap();
        assert_eq!(found(&disk, "a"), [Some(b"newer".to_vec())].into());
    }

    // The kernel tells a write-back error once. A test that could not lose the second answer would prove nothing.
    #[test]
    fn a_write_back_error_is_told_once() {
        let (dir, disk) = recorded(&["a"]);
        let path = dir.path().join("a");
        std::fs::write(&path, "new").unwrap();
        disk.lose_write_back(&path).unwrap();
        assert!(disk.sync_file(&path).is_err());
        disk.sync_file(&path).unwrap();
        assert_eq!(found(&disk, "a"), [Some(b"old".to_vec())].into());
    }

    // The order of the one replacement of files that all records rely on, at every step of it.
    #[test]
    fn an_atomic_write_leaves_old_or_new() {
        let (dir, disk) = recorded(&["a"]);
        let path = dir.path().join("a");
        write_atomic(&disk, &path, &[9; 3000]).unwrap();
        let mut seen = BTreeSet::new();
        for steps in 0..=disk.steps().len() {
            for seed in 0..32 {
                let into = tempfile::tempdir().unwrap();
                disk.crash(steps, seed).put_into(into.path()).unwrap();
                seen.insert(std::fs::read(into.path().join("a")).unwrap());
            }
        }
        assert_eq!(seen, [b"old".to_vec(), vec![9; 3000]].into());
        assert_eq!(found(&disk, "a"), [Some(vec![9; 3000])].into(), "it is durable when it returns");
    }

    // After the power failed nothing may look as if it had succeeded.
    #[test]
    fn nothing_works_without_power() {
        let (dir, disk) = recorded(&[]);
        disk.fail_at(0, 28);
        assert_eq!(disk.make_dir(&dir.path().join("a"), 0o700).unwrap_err().raw_os_error(), Some(28));
        disk.cut_power_at(2);
        disk.make_dir(&dir.path().join("b"), 0o700).unwrap();
        assert!(disk.sync_dir(dir.path()).is_err() && disk.remove_dir(&dir.path().join("b")).is_err());
        assert!(dir.path().join("b").exists() && !dir.path().join("a").exists());
    }
}
