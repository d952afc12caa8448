//! The root folder: where everything is kept, and its format version.
//!
//! ```text
//! ROOT/VERSION
//!      vms/NAME/vm.json  lock  journal.json  snapshots/ID.json  layers/DISK/ID.qcow2  seats/N/  seat -> seats/N
//!      store/
//!      flat/
//! ```
//! A VM's folder appears whole by one rename and goes by one rename (to `vms/.gone-ID`, then removed); folders whose
//! name starts with `.` are such left-overs and are never VMs. What else lies in `vms` is somebody's, and passed over.

pub(crate) mod checksum;
pub(crate) mod file;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmrewind_files::unfinished;

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, SnapshotId, VmId, VmName};
use file::{Files, io_error, newer_format};

/// The newest format of the root that this program knows.
const ROOT_VERSION: u32 = 2;
/// The oldest: it has no seats, and is brought up to the newest by the first command that changes a VM.
const OLDEST_VERSION: u32 = 1;

/// The longest file that can hold a format version.
const VERSION_BYTES_MAX: u64 = 64;

/// An unfinished file that is older has no writer any more.
const UNFINISHED_AGE: Duration = Duration::from_secs(60);

/// Where the seats are in a VM's folder.
const SEATS: &str = "seats";

/// An opened root folder.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
    files: Files,
    /// Whether `VERSION` holds an older format that is still to be replaced.
    is_older: bool,
}

impl Root {
    /// Opens the root at `path`, making it where there is none.
    ///
    /// # Errors
    /// `Refused` for a newer format, or a folder that holds something else; `Failed` without permission.
    pub(crate) fn open(path: &Path, files: Files) -> Result<Self> {
        let mut root = Self::at(path, files)?;
        match root.version()? {
            Some(version) => root.is_older = version < ROOT_VERSION,
            None => root.initialise()?,
        }
        Ok(root)
    }

    /// Opens the root at `path`; nothing is made. `None` where there is none, or one that is only being made.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub(crate) fn open_existing(path: &Path, files: Files) -> Result<Option<Self>> {
        let mut root = Self::at(path, files)?;
        if let Some(version) = root.version()? {
            root.is_older = version < ROOT_VERSION;
            return Ok(Some(root));
        }
        // A folder of something else is a mistake, and not a root without VMs.
        if root.path.is_dir() {
            root.refuse_strangers()?;
        }
        Ok(None)
    }

    fn at(path: &Path, files: Files) -> Result<Self> {
        let absolute = std::path::absolute(path)
            .map_err(|error| io_error(&format!("cannot use root '{}'", path.display()), error))?;
        Ok(Self { path: absolute, files, is_older: false })
    }

    fn version_file(&self) -> PathBuf {
        self.path.join("VERSION")
    }

    /// The root's format, one that this program knows. `None` where there is no root.
    fn version(&self) -> Result<Option<u32>> {
        let file = self.version_file();
        let Some(text) = self.files.read(&file, VERSION_BYTES_MAX)? else { return Ok(None) };
        match String::from_utf8_lossy(&text).trim().parse::<u32>() {
            Ok(known @ OLDEST_VERSION..=ROOT_VERSION) => Ok(Some(known)),
            Ok(newer) if newer > ROOT_VERSION => Err(newer_format(&file, newer, ROOT_VERSION)),
            _ => Err(Error::damaged(format!("'{}' does not hold a format version", file.display()))
                .with_hint(Hint::IsThisTheRoot { root: self.path.clone() })),
        }
    }

    /// Keeps programs out that don't know what this one is about to write. Those that only look need not do that.
    ///
    /// # Errors
    /// `Failed` where it can't be written.
    pub(crate) fn raise_version(&self) -> Result<()> {
        if self.is_older { self.write_version() } else { Ok(()) }
    }

    fn write_version(&self) -> Result<()> {
        self.files.write_atomic(&self.version_file(), format!("{ROOT_VERSION}\n").as_bytes())
    }

    /// Fails where the folder holds what no half-made root does.
    fn refuse_strangers(&self) -> Result<()> {
        let is_stranger = |path: &PathBuf| {
            let own = ["vms", "store", "flat", "VERSION"].map(|own| self.path.join(own));
            !own.contains(path) && unfinished(path) != Some("VERSION")
        };
        let stranger = self.files.list(&self.path)?.into_iter().find(is_stranger);
        if let Some(name) = stranger.as_ref().and_then(|path| path.file_name()) {
            return Err(Error::refused(format!(
                "'{}' is not a vmrewind root: it holds '{}' and no VERSION",
                self.path.display(),
                name.display()
            ))
            .with_hint(Hint::EmptyRoot));
        }
        Ok(())
    }

    fn initialise(&self) -> Result<()> {
        self.files.make_dir(&self.path)?;
        self.refuse_strangers()?;
        let version_file = self.version_file();
        self.files.make_dir(&self.path.join("vms"))?;
        self.files.make_dir(&self.path.join("store"))?;
        match self.write_version() {
            // Another first command was quicker.
            Err(_) if version_file.exists() => Ok(()),
            written => written,
        }
    }

    /// The file system that it is on.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The root folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The folder of memory files for clones.
    pub(crate) fn flat(&self) -> PathBuf {
        self.path.join("flat")
    }

    /// The folder of all VMs.
    pub(crate) fn vms(&self) -> PathBuf {
        self.path.join("vms")
    }

    /// The folder of one VM.
    pub(crate) fn vm(&self, name: &VmName) -> VmFolder {
        self.vm_folder(name.as_str())
    }

    /// The folder of a VM that is being made.
    pub(crate) fn draft(&self, id: &VmId) -> VmFolder {
        self.vm_folder(&format!(".new-{id}"))
    }

    /// The folder of a VM that is being deleted.
    pub(crate) fn gone(&self, id: &VmId) -> VmFolder {
        self.vm_folder(&format!(".gone-{id}"))
    }

    fn vm_folder(&self, name: &str) -> VmFolder {
        VmFolder { path: self.vms().join(name), files: self.files.clone(), seat: None }
    }

    /// The folders of all VMs, of those too that are being made or deleted.
    pub(crate) fn vm_folders(&self) -> Result<Vec<VmFolder>> {
        let folder = |path| VmFolder { path, files: self.files.clone(), seat: None };
        let entries = self.files.list(&self.vms())?;
        Ok(entries.into_iter().filter(|path| may_be_dir(path)).map(folder).collect())
    }

    /// The names of all VMs, sorted.
    pub(crate) fn vm_names(&self) -> Result<Vec<VmName>> {
        let mut names: Vec<VmName> =
            self.vm_folders()?.iter().filter(|folder| folder.is_a_vm()).filter_map(VmFolder::name).collect();
        names.sort();
        Ok(names)
    }
}

/// Whether something is a folder. What can't be looked at may be one: who goes in will be told why it can't be.
pub(crate) fn may_be_dir(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// The number of a seat.
pub(crate) type SeatNumber = u32;

/// The paths of one VM's folder.
///
/// What is there for one QEMU process and means nothing without it (its lock, its sockets, the memory that it is served)
/// has a folder of its own, a *seat*: while a restore brings the next QEMU up, two of them live. The link `seat` names the
/// one that is the VM; to set it is to replace the VM by another.
#[derive(Debug, Clone)]
pub(crate) struct VmFolder {
    path: PathBuf,
    files: Files,
    /// The seat that is meant, whichever the link names.
    seat: Option<SeatNumber>,
}

impl VmFolder {
    /// A VM's folder on this host, where it is known by its path only.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, files: Files::of_this_host(), seat: None }
    }

    /// The folder of another VM of the same root.
    pub(crate) fn neighbour(&self, name: &VmName) -> Self {
        self.beside(OsStr::new(name.as_str()))
    }

    /// The entry of that name beside this one.
    pub(crate) fn beside(&self, name: &OsStr) -> Self {
        Self { path: self.path.with_file_name(name), files: self.files.clone(), seat: None }
    }

    /// The file system that it is on.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The same with the seat of that number in place of the VM's.
    pub(crate) fn at_seat(&self, number: SeatNumber) -> Self {
        Self { seat: Some(number), ..self.clone() }
    }

    /// The same for as long as it is used, whichever QEMU becomes the VM's.
    pub(crate) fn pinned(&self) -> Self {
        Self { seat: self.seat_number(), ..self.clone() }
    }

    /// The number of the seat. `None` for a VM that was never started, or last by a version without seats: the files are
    /// in the VM's folder itself then.
    pub(crate) fn seat_number(&self) -> Option<SeatNumber> {
        let named = || {
            let target = fs::read_link(self.seat_link()).ok()?;
            target.strip_prefix(SEATS).ok()?.to_str()?.parse().ok()
        };
        self.seat.or_else(named)
    }

    /// The seat as a word for a helper program, which is to keep to it; empty where there is none.
    pub(crate) fn seat_word(&self) -> String {
        self.seat_number().map(|number| number.to_string()).unwrap_or_default()
    }

    /// The same with the seat that such a word names.
    pub(crate) fn at_seat_word(self, word: &str) -> Self {
        Self { seat: word.parse().ok().or(self.seat), ..self }
    }

    /// The folder of the seat.
    pub(crate) fn seat(&self) -> PathBuf {
        match self.seat_number() {
            Some(number) => self.path.join(SEATS).join(number.to_string()),
            None => self.path.clone(),
        }
    }

    /// All seats there are.
    pub(crate) fn seats(&self) -> Vec<SeatNumber> {
        let number = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        self.files.list(&self.path.join(SEATS)).unwrap_or_default().into_iter().filter_map(number).collect()
    }

    /// The link to the seat of the VM's QEMU.
    pub(crate) fn seat_link(&self) -> PathBuf {
        self.path.join("seat")
    }

    /// What the link to a seat holds.
    pub(crate) fn seat_target(number: SeatNumber) -> PathBuf {
        Path::new(SEATS).join(number.to_string())
    }

    /// The VM that it is named after.
    pub(crate) fn name(&self) -> Option<VmName> {
        self.path.file_name()?.to_str()?.parse().ok()
    }

    /// Whether there is a VM, or what is left of one that has lost its record: anything else is a stray folder.
    pub(crate) fn is_a_vm(&self) -> bool {
        let parts = [self.record(), self.snapshots(), self.path.join("layers")];
        parts.iter().any(|part| fs::symlink_metadata(part).is_ok())
    }

    /// Removes what dead commands left of files that they were writing. Failures can wait.
    ///
    /// By age, since not all writers hold the VM: who takes a minute for a small file fails, and says so.
    pub(crate) fn sweep_unfinished(&self) {
        let is_old = |path: &Path| {
            let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNFINISHED_AGE))
        };
        let folders = [self.path.clone(), self.snapshots(), self.run()];
        let paths = folders.iter().flat_map(|folder| self.files.list(folder).unwrap_or_default());
        for path in paths.filter(|path| unfinished(path).is_some() && is_old(path)) {
            let _ = self.files.remove_file(&path);
        }
    }

    /// The VM's record.
    pub(crate) fn record(&self) -> PathBuf {
        self.path.join("vm.json")
    }

    /// The VM's lock file.
    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The folder of those who wait for the lock.
    pub(crate) fn queue(&self) -> PathBuf {
        self.path.join("queue")
    }

    /// The file that the seat's QEMU holds locked as long as it lives.
    pub(crate) fn alive(&self) -> PathBuf {
        self.seat().join("alive")
    }

    /// Which process that QEMU is.
    pub(crate) fn process(&self) -> PathBuf {
        self.seat().join("process.json")
    }

    /// The pages that a restored guest touches first.
    pub(crate) fn working_set(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(format!("{id}.working-set"))
    }

    /// The operation under way.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal.json")
    }

    /// The folder of manifests.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// One manifest.
    pub(crate) fn manifest(&self, id: &SnapshotId) -> PathBuf {
        self.snapshots().join(format!("{id}.json"))
    }

    /// The folder of one disk's layers.
    pub(crate) fn disk(&self, disk: &str) -> PathBuf {
        self.path.join("layers").join(disk)
    }

    /// One layer's file.
    pub(crate) fn layer(&self, disk: &str, layer: &LayerId) -> PathBuf {
        self.disk(disk).join(format!("{layer}.qcow2"))
    }

    /// The seat's folder of sockets and logs; it can be a link to a shorter path.
    pub(crate) fn run(&self) -> PathBuf {
        self.seat().join("run")
    }

    /// The link to the same of whichever QEMU is the VM: the path that users and their programs know.
    pub(crate) fn run_link(&self) -> PathBuf {
        self.path.join("run")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards a VM's folder from filling up with what dead commands left, and a living writer from losing its file.
    #[test]
    fn only_old_unfinished_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = VmFolder::at(dir.path().to_owned());
        folder.files().private_dir(&folder.snapshots()).unwrap();
        let old = ["journal.json.0123456789abcdef.tmp", "snapshots/a.json.0123456789abcdef.tmp"];
        let kept = ["vm.json", "vm.json.fedcba9876543210.tmp", "snapshots/a.json", "mine.tmp"];
        for name in old.iter().chain(&kept) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        for name in old.iter().chain(&["vm.json", "mine.tmp"]) {
            let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            file.set_modified(written - 2 * UNFINISHED_AGE).unwrap();
        }
        folder.sweep_unfinished();
        let is_there = |name: &&str| folder.path().join(name).exists();
        assert!(!old.iter().any(is_there) && kept.iter().all(is_there));
    }
}
