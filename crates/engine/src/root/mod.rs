//! The root folder: where everything is kept, and its format version.
//!
//! ```text
//! ROOT/VERSION
//!      vms/NAME/vm.json  lock  journal.json  snapshots/ID.json  layers/DISK/ID.qcow2  run/
//!      store/
//!      flat/
//! ```
//! A VM's folder appears whole by one rename and goes by one rename (to `vms/.gone-ID`, then removed); folders whose
//! name starts with `.` are such left-overs and are never VMs.

pub(crate) mod file;
pub(crate) mod lock;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::ids::{LayerId, SnapshotId, VmName};
use file::{io_error, make_dir, newer_format, write_atomic};

/// The newest format of the root that this program knows.
const ROOT_VERSION: u32 = 1;

/// An opened root folder.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// Opens the root at `path`, making it where there is none.
    ///
    /// # Errors
    /// `Refused` for a newer format, or a folder that holds something else; `Failed` without permission.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path)
            .map_err(|error| io_error(&format!("cannot use root '{}'", path.display()), error))?;
        let root = Self { path: absolute };
        let version_file = root.path.join("VERSION");
        match fs::read_to_string(&version_file) {
            Ok(text) => root.check_version(&version_file, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => root.initialise(&version_file)?,
            Err(error) => {
                return Err(io_error(&format!("cannot open root '{}'", root.path.display()), error));
            }
        }
        Ok(root)
    }

    fn check_version(&self, version_file: &Path, text: &str) -> Result<()> {
        match text.trim().parse::<u32>() {
            Ok(ROOT_VERSION) => Ok(()),
            Ok(newer) if newer > ROOT_VERSION => Err(newer_format(version_file, newer, ROOT_VERSION)),
            _ => Err(Error::damaged(format!("'{}' does not hold a format version", version_file.display()))
                .hint(format!("is '{}' the root you mean (--root)?", self.path.display()))),
        }
    }

    fn initialise(&self, version_file: &Path) -> Result<()> {
        make_dir(&self.path)?;
        let entries = fs::read_dir(&self.path)
            .map_err(|error| io_error(&format!("cannot read root '{}'", self.path.display()), error))?;
        let stranger =
            entries.filter_map(std::result::Result::ok).map(|entry| entry.file_name()).find(|name| {
                !["vms", "store", "flat", "VERSION.tmp", "VERSION"].iter().any(|known| name == known)
            });
        if let Some(name) = stranger {
            return Err(Error::refused(format!(
                "'{}' is not a vmrewind root: it holds '{}' and no VERSION",
                self.path.display(),
                name.display()
            ))
            .hint("give an empty or new folder with --root"));
        }
        make_dir(&self.path.join("vms"))?;
        make_dir(&self.path.join("store"))?;
        match write_atomic(version_file, format!("{ROOT_VERSION}\n").as_bytes()) {
            // Another first command was quicker.
            Err(_) if version_file.exists() => Ok(()),
            written => written,
        }
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
        VmFolder { path: self.vms().join(name.as_str()) }
    }

    /// The folders of all VMs, of those too that are being made or deleted.
    pub(crate) fn vm_folders(&self) -> Result<Vec<VmFolder>> {
        let folder = self.vms();
        let cannot = |error| io_error(&format!("cannot read '{}'", folder.display()), error);
        let entries = fs::read_dir(&folder).map_err(cannot)?;
        entries.map(|entry| Ok(VmFolder::at(entry.map_err(cannot)?.path()))).collect()
    }

    /// The names of all VMs, sorted.
    pub(crate) fn vm_names(&self) -> Result<Vec<VmName>> {
        let folder = self.vms();
        let cannot = |error| io_error(&format!("cannot read '{}'", folder.display()), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.parse().ok()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The paths of one VM's folder.
#[derive(Debug, Clone)]
pub(crate) struct VmFolder {
    path: PathBuf,
}

impl VmFolder {
    /// A VM folder at any place, as one that is being made.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder of another VM of the same root.
    pub(crate) fn neighbour(&self, name: &VmName) -> Self {
        Self { path: self.path.with_file_name(name.as_str()) }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The VM's record.
    pub(crate) fn record(&self) -> PathBuf {
        self.path.join("vm.json")
    }

    /// The VM's lock file.
    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The file that the VM's QEMU holds locked as long as it lives.
    pub(crate) fn alive(&self) -> PathBuf {
        self.path.join("alive")
    }

    /// Which process that QEMU is.
    pub(crate) fn process(&self) -> PathBuf {
        self.path.join("process.json")
    }

    /// The lazy restore under way.
    pub(crate) fn lazy(&self) -> PathBuf {
        self.path.join("lazy.json")
    }

    /// The file that those who serve a lazy restore hold locked.
    pub(crate) fn lazy_lock(&self) -> PathBuf {
        self.path.join("lazy.lock")
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

    /// The entry of the folder of sockets and logs; it can be a link to a shorter path.
    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }
}
