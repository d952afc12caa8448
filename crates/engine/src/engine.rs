//! The engine on one root folder; the operations are in [`crate::ops`].

use std::path::Path;
use std::sync::Arc;

use vmrewind_store::{DirStorage, Store};

use crate::capture::receive::store_error;
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::ids::VmName;
use crate::journaled::recover;
use crate::record::journal::Journal;
use crate::record::snapshot::Snapshots;
use crate::record::vm::VmRecord;
use crate::root::lock::VmLock;
use crate::root::{Root, VmFolder};

/// The engine on one root folder.
pub struct Engine {
    pub(crate) root: Root,
    pub(crate) store: Store,
    pub(crate) host: Host,
}

/// A VM that this process holds for writing, recovered and read.
pub(crate) struct Held {
    pub(crate) folder: VmFolder,
    pub(crate) record: VmRecord,
    pub(crate) snapshots: Snapshots,
    pub(crate) _lock: VmLock,
}

/// A VM as it can be read without holding it.
pub(crate) struct Seen {
    pub(crate) folder: VmFolder,
    pub(crate) record: VmRecord,
    pub(crate) snapshots: Snapshots,
    /// The operation that another process is carrying out.
    pub(crate) operation: Option<String>,
}

impl Engine {
    /// Opens the root at `path`, making it where there is none.
    ///
    /// # Errors
    /// `Refused` for a root of a newer format or a folder that is no root, `Failed` without permission.
    pub fn open(path: &Path, host: Host) -> Result<Self> {
        let root = Root::open(path)?;
        let storage =
            DirStorage::new(root.store()).context(|| format!("cannot open '{}'", root.store().display()))?;
        let store =
            Store::open(Arc::new(storage)).map_err(|error| store_error("cannot open the store", error))?;
        let engine = Self { root, store, host };
        engine.sweep_gone_vms();
        Ok(engine)
    }

    /// Takes a VM for writing; finishes or undoes first what a dead command left.
    ///
    /// # Errors
    /// `NotFound`, `Busy`, `Damaged`, or what went wrong with the recovery.
    pub(crate) fn hold(&self, name: &VmName) -> Result<Held> {
        let folder = self.existing(name)?;
        let lock = VmLock::take(&folder.lock(), name.as_str())?;
        // It can have been deleted while we waited for the lock.
        self.existing(name)?;
        recover(&self.host, &self.store, &folder)?;
        let record = VmRecord::load(&folder, name)?;
        let snapshots = Snapshots::load(&folder)?;
        Ok(Held { folder, record, snapshots, _lock: lock })
    }

    /// Reads a VM. Finishes or undoes first what a dead command left; beside a living one, reads what is there.
    pub(crate) fn look(&self, name: &VmName) -> Result<Seen> {
        let folder = self.existing(name)?;
        let mut operation = None;
        if let Some(journal) = Journal::load(&folder)? {
            match VmLock::try_take(&folder.lock())? {
                Some(_lock) => drop(recover(&self.host, &self.store, &folder)?),
                None => operation = Some(journal.operation),
            }
        }
        let record = VmRecord::load(&folder, name)?;
        let snapshots = Snapshots::load(&folder)?;
        Ok(Seen { folder, record, snapshots, operation })
    }

    fn existing(&self, name: &VmName) -> Result<VmFolder> {
        let folder = self.root.vm(name);
        match std::fs::metadata(folder.path()) {
            Ok(_) => Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("there is no VM '{name}'"))
                    .hint("`vmrewind vm list` shows all VMs"))
            }
            Err(error) => Err(crate::root::file::io_error(&format!("cannot open VM '{name}'"), error)),
        }
    }

    /// Whether the user asked for an end; operations look at this between steps.
    pub(crate) fn check_cancel(&self, what: &str) -> Result<()> {
        self.host.cancel.check(what)
    }
}
